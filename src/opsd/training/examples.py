"""Prepares a step's rollouts for training: the taught tokens of each one, after the student's own
prompt and after every view of its teachers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from opsd.lm.layout import ModelInput
from opsd.methods.signals import LossTerm
from opsd.prompts.contexts import Draw
from opsd.rollout.rows import TOKENS, Rows, TaughtRows
from opsd.rollout.sources import Sampler
from opsd.teacher.scorer import ScoringRequest
from opsd.teacher.weights import Weights
from opsd.types import Group, Problem, Rollout, View


@dataclass(frozen=True)
class TeacherInput:
    """A view as token ids, the model input that starts with it, and the weights that read it."""

    view: View
    ids: tuple[int, ...]
    input: ModelInput
    weights: Weights


@dataclass
class TrainingExample:
    """One training sequence of a rollout: the taught `rows`, the `input` that contains them, and
    all else that the loss needs.

    `teacher_inputs` has one entry per loss term: the teacher's views, an empty tuple for a term
    without a teacher, or None if the term does not teach this rollout. `factors`, one per loss
    term, multiply each token's loss. They are filled in once per step and include the denominators.
    """

    problem: Problem
    rollout: Rollout
    sample: int
    group: int
    prompt_ids: tuple[int, ...]
    rows: TaughtRows
    input: ModelInput
    teacher_inputs: list[tuple[TeacherInput, ...] | None]
    reward_mean: float
    reward_std: float
    pass_rate: float
    factors: list[float]

    @property
    def reward(self) -> float:
        """The verifier's reward; NaN if the rollout was not graded."""
        return self.rollout.verdict.reward if self.rollout.verdict else math.nan

    @property
    def taught(self) -> bool:
        """Whether any loss term teaches this rollout. If none does, it only counts in the
        denominators."""
        return any(teacher_input is not None for teacher_input in self.teacher_inputs)

    def requests(self, i: int) -> list[ScoringRequest]:
        """What the teacher of loss term `i` reads, one request per view."""
        return [ScoringRequest(view.weights, view.input) for view in self.teacher_inputs[i] or ()]

    @property
    def tokens(self) -> int:
        """Tokens of the student's sequence; passes are balanced by this number."""
        return len(self.input.ids)


def training_examples(
    groups: Sequence[Group],
    terms: Sequence[tuple[float, LossTerm]],
    sampler: Sampler,
    step: int = 0,
    rows: Rows = TOKENS,
    uses: int = 1,
) -> list[TrainingExample]:
    """The training examples of all rollouts that fit, in order; `rows` selects the taught tokens.
    `uses` is the number of optimizer steps that use these groups, including this one."""
    made = []
    for number, group in enumerate(groups):
        rewards = [r.verdict.reward if r.verdict else math.nan for r in group.rollouts]
        mean = sum(rewards) / len(rewards) if rewards else 0.0
        squares = sum((r - mean) ** 2 for r in rewards)
        std = (squares / (len(rewards) - 1)) ** 0.5 if len(rewards) > 1 else 0.0
        for i, rollout in enumerate(group.rollouts):
            draw = sampler.draw(group.problem, i, step, uses)
            views = [_views(term, group, i, draw, sampler) for _, term in terms]
            if not rollout.completion_ids:
                continue
            view = sampler.student.view(group.problem)
            # The rollout may have been sampled from a prompt other than the one that is trained on.
            ids = sampler.read(group.problem, view, len(rollout.completion_ids))
            if ids is None:
                continue
            for own in rows(rollout, draw, sampler.canvas):
                shown, inputs = _inputs(own, rollout, views, draw)
                if not shown.tokens:
                    continue
                made.append(
                    TrainingExample(
                        problem=group.problem,
                        rollout=rollout,
                        sample=i,
                        group=number,
                        prompt_ids=ids,
                        rows=shown,
                        input=shown.after(ids),
                        teacher_inputs=inputs,
                        reward_mean=mean,
                        reward_std=std,
                        pass_rate=math.nan if math.isnan(mean) else group.pass_rate,
                        factors=[],
                    )
                )
    return made


Read = list[tuple[View, tuple[int, ...], Weights]]
"""Views, their token ids, and the weights that read them."""


def _views(term: LossTerm, group: Group, i: int, draw: Draw, sampler: Sampler) -> Read | None:
    """A teacher's views of a rollout. Empty for a term without a teacher; None if the term does not
    teach this rollout."""
    teacher = term.teacher
    if teacher is None:
        return []
    views = teacher.context(group, i, draw)
    if views is None:
        return None
    length = len(group.rollouts[i].completion_ids)
    read: Read = []
    for view, weights in zip(views, teacher.weights_of(views), strict=True):
        ids = sampler.read(group.problem, view, length)
        if ids is None:
            return None
        read.append((view, ids, weights))
    return read


def _inputs(
    rows: TaughtRows, rollout: Rollout, views: Sequence[Read | None], draw: Draw
) -> tuple[TaughtRows, list[tuple[TeacherInput, ...] | None]]:
    """The inputs of every term's views, and the rows without the tokens that any view reveals."""
    revealed = [[_revealed(view, rows, rollout, draw) for view, _, _ in own or ()] for own in views]
    seen = {position for own in revealed for shown in own for position in shown}
    rows = rows.without(seen) if seen else rows
    inputs = [
        own
        if own is None
        else tuple(
            TeacherInput(view, ids, rows.after(ids, shown), weights)
            for (view, ids, weights), shown in zip(own, of_view, strict=True)
        )
        for own, of_view in zip(views, revealed, strict=True)
    ]
    return rows, inputs


def _revealed(view: View, rows: TaughtRows, rollout: Rollout, draw: Draw) -> Sequence[int]:
    """The positions of the canvas that a view reveals in addition."""
    written = rollout.trajectory
    if view.reveals is None or written is None or rows.state is None:
        return ()
    random = Random(f"{draw.seed} {rows.state} {view.name}")
    return view.reveals.revealed(written, rows.state, random)
