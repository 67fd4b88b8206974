"""A step's rollouts made ready for learning: the student's own prompt, every teacher's views."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from opsd.methods.signals import LossTerm
from opsd.prompts.prompt import prompt_ids
from opsd.rollout.sources import Sampler
from opsd.teacher.scorer import Text
from opsd.teacher.weights import AnyWeights
from opsd.types import Group, Problem, Rollout, View


@dataclass(frozen=True)
class TeacherInput:
    """A view as token ids, and the weights that read it."""

    view: View
    ids: tuple[int, ...]
    weights: AnyWeights


@dataclass
class TrainingExample:
    """One rollout with all that the loss needs of it.

    `readings` has an entry per signal: the teacher's views, empty for a signal without a teacher,
    None where the signal does not teach this rollout. `factors`, one per signal, multiply each
    token's loss; they are filled once per step, denominators included.
    """

    problem: Problem
    rollout: Rollout
    sample: int
    group: int
    prompt_ids: tuple[int, ...]
    readings: list[tuple[TeacherInput, ...] | None]
    reward_mean: float
    reward_std: float
    pass_rate: float
    factors: list[float]

    @property
    def reward(self) -> float:
        return self.rollout.verdict.reward if self.rollout.verdict else 0.0

    @property
    def taught(self) -> bool:
        """Whether any signal teaches this rollout. One that none does is only counted."""
        return any(reading is not None for reading in self.readings)

    def texts(self, i: int) -> list[Text]:
        """What the teacher of signal `i` reads, one text per view."""
        completion = self.rollout.completion_ids
        return [Text(view.weights, view.ids, completion) for view in self.readings[i] or ()]

    @property
    def tokens(self) -> int:
        """Tokens of the student's sequence, the measure that passes are balanced by."""
        return len(self.prompt_ids) + len(self.rollout.completion_ids)


def training_examples(
    groups: Sequence[Group], signals: Sequence[tuple[float, LossTerm]], sampler: Sampler
) -> list[TrainingExample]:
    """Every rollout of the groups that fits, in order."""
    made = []
    for number, group in enumerate(groups):
        rewards = [r.verdict.reward if r.verdict else 0.0 for r in group.rollouts]
        mean = sum(rewards) / len(rewards) if rewards else 0.0
        squares = sum((r - mean) ** 2 for r in rewards)
        std = (squares / (len(rewards) - 1)) ** 0.5 if len(rewards) > 1 else 0.0
        for i, rollout in enumerate(group.rollouts):
            readings = [_read(leaf, group, i, sampler) for _, leaf in signals]
            if not rollout.completion_ids:
                continue
            view = sampler.student.view(group.problem)
            ids = prompt_ids(sampler.tokenizer, view)
            # The sampler may have read another prompt than the one that is learned on.
            if not sampler.fits(group.problem, view, ids, len(rollout.completion_ids)):
                continue
            made.append(
                TrainingExample(
                    problem=group.problem,
                    rollout=rollout,
                    sample=i,
                    group=number,
                    prompt_ids=ids,
                    readings=readings,
                    reward_mean=mean,
                    reward_std=std,
                    pass_rate=group.pass_rate,
                    factors=[],
                )
            )
    return made


def _read(
    leaf: LossTerm, group: Group, i: int, sampler: Sampler
) -> tuple[TeacherInput, ...] | None:
    teacher: Any = leaf.teacher
    if teacher is None:
        return ()
    views = teacher.context(group, i)
    if views is None:
        return None
    length = len(group.rollouts[i].completion_ids)
    readings = []
    for view in views:
        ids = prompt_ids(sampler.tokenizer, view)
        if not sampler.fits(group.problem, view, ids, length):
            return None
        readings.append(TeacherInput(view, ids, view.weights or teacher.weights))
    return tuple(readings)
