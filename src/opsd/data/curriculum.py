"""Curricula: which problems are worth a step's rollouts, judged by the outcomes of their rollouts
so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Protocol

from pydantic import Field

from opsd.parts import Slot, part
from opsd.types import Group, Problem

Outcome = tuple[str, int, int]
"""A problem's id, how many of its rollouts were right, and how many were graded."""


class CurriculumAtWork(Protocol):
    """A curriculum in a run. What it draws depends only on the seed, the step and the recorded
    outcomes, so that all processes draw the same problems, and a resumed run draws the same as an
    uninterrupted one."""

    def draw(self, step: int, count: int) -> list[int]:
        """The `count` problem indices, from 0, of a step that generates rollouts, for all processes
        together."""
        ...

    def record(self, outcomes: Sequence[Outcome]) -> None:
        """Records the outcomes of such a step's rollouts, of all processes."""
        ...

    @property
    def measured(self) -> Mapping[str, float]:
        """The metrics that are logged."""
        return {}

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class Curriculum(Protocol):
    """How often each problem is drawn. Your own curriculum inherits what it does not define."""

    def begin(self, problems: Sequence[Problem], seed: int) -> CurriculumAtWork:
        """The curriculum at work on a training set."""
        ...


@part
class Frontier(Curriculum):
    """Problems that are neither solved nor hopeless come most often: each is drawn with weight
    p (1 - p), where p is the share of its recent rollouts that were right.

    An outcome counts half after `half_life` steps that generate. Every problem begins with `prior`
    rollouts, half of them right, which do not fade: a problem that was never tried, or not for a
    long time, weighs 1/4, the maximum. No problem comes twice in a step before all have come. The
    weight is PACED's (2026, arXiv 2603.11178), which puts it on the loss. Choosing by it what is
    sampled, and letting outcomes fade, are ours.
    """

    half_life: Annotated[float, Field(gt=0)] = 50.0
    prior: Annotated[float, Field(gt=0)] = 1.0
    type: Literal["frontier"] = "frontier"

    def begin(self, problems: Sequence[Problem], seed: int) -> CurriculumAtWork:
        # Imported here, so that problems are read and reports written without torch.
        from opsd.data.frontier import FrontierAtWork

        return FrontierAtWork(self.half_life, self.prior, problems, seed)


AnyCurriculum = Annotated[Curriculum, Slot("curriculum", Curriculum, (Frontier,))]


def outcomes(groups: Sequence[Group]) -> list[Outcome]:
    """The outcomes of the graded rollouts of some groups."""
    made = []
    for group in groups:
        verdicts = [r.verdict for r in group.rollouts if r.verdict is not None]
        made.append((group.problem.id, sum(v.correct for v in verdicts), len(verdicts)))
    return made
