"""A step's rollouts made ready for learning: the student's own prompt, every teacher's views."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from opsd.methods.signals import LossTerm
from opsd.prompts.contexts import Draw
from opsd.rollout.sources import Sampler
from opsd.teacher.scorer import ScoringRequest
from opsd.teacher.weights import Weights
from opsd.types import Group, Problem, Rollout, View


@dataclass(frozen=True)
class TeacherInput:
    """A view as token ids, and the weights that read it."""

    view: View
    ids: tuple[int, ...]
    weights: Weights


@dataclass
class TrainingExample:
    """One rollout with all that the loss needs of it.

    `teacher_inputs` has an entry per loss term: the teacher's views, empty for one without a
    teacher, None where it does not teach this rollout. `factors`, one per loss term, multiply each
    token's loss; they are filled once per step, denominators included.
    """

    problem: Problem
    rollout: Rollout
    sample: int
    group: int
    prompt_ids: tuple[int, ...]
    teacher_inputs: list[tuple[TeacherInput, ...] | None]
    reward_mean: float
    reward_std: float
    pass_rate: float
    factors: list[float]

    @property
    def reward(self) -> float:
        """The verifier's; NaN of a rollout that nobody judged."""
        return self.rollout.verdict.reward if self.rollout.verdict else math.nan

    @property
    def taught(self) -> bool:
        """Whether any loss term teaches this rollout. One that none does is only counted."""
        return any(teacher_input is not None for teacher_input in self.teacher_inputs)

    def requests(self, i: int) -> list[ScoringRequest]:
        """What the teacher of loss term `i` reads, one request per view."""
        completion = self.rollout.completion_ids
        return [
            ScoringRequest(view.weights, view.ids, completion)
            for view in self.teacher_inputs[i] or ()
        ]

    @property
    def tokens(self) -> int:
        """Tokens of the student's sequence, the measure that passes are balanced by."""
        return len(self.prompt_ids) + len(self.rollout.completion_ids)


def training_examples(
    groups: Sequence[Group],
    terms: Sequence[tuple[float, LossTerm]],
    sampler: Sampler,
    step: int = 0,
) -> list[TrainingExample]:
    """Every rollout of the groups that fits, in order."""
    made = []
    for number, group in enumerate(groups):
        rewards = [r.verdict.reward if r.verdict else math.nan for r in group.rollouts]
        mean = sum(rewards) / len(rewards) if rewards else 0.0
        squares = sum((r - mean) ** 2 for r in rewards)
        std = (squares / (len(rewards) - 1)) ** 0.5 if len(rewards) > 1 else 0.0
        for i, rollout in enumerate(group.rollouts):
            draw = sampler.draw(group.problem, i, step)
            inputs = [_inputs(term, group, i, draw, sampler) for _, term in terms]
            if not rollout.completion_ids:
                continue
            view = sampler.student.view(group.problem)
            # The sampler may have read another prompt than the one that is learned on.
            ids = sampler.read(group.problem, view, len(rollout.completion_ids))
            if ids is None:
                continue
            made.append(
                TrainingExample(
                    problem=group.problem,
                    rollout=rollout,
                    sample=i,
                    group=number,
                    prompt_ids=ids,
                    teacher_inputs=inputs,
                    reward_mean=mean,
                    reward_std=std,
                    pass_rate=math.nan if math.isnan(mean) else group.pass_rate,
                    factors=[],
                )
            )
    return made


def _inputs(
    term: LossTerm, group: Group, i: int, draw: Draw, sampler: Sampler
) -> tuple[TeacherInput, ...] | None:
    teacher = term.teacher
    if teacher is None:
        return ()
    views = teacher.context(group, i, draw)
    if views is None:
        return None
    length = len(group.rollouts[i].completion_ids)
    inputs = []
    for view, weights in zip(views, teacher.weights_of(views), strict=True):
        ids = sampler.read(group.problem, view, length)
        if ids is None:
            return None
        inputs.append(TeacherInput(view, ids, weights))
    return tuple(inputs)
