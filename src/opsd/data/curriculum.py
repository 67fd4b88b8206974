"""Curricula: which problems are worth a step's rollouts by now, by how their rollouts came out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Protocol

from pydantic import Field

from opsd.parts import Slot, part
from opsd.types import Group, Problem

Outcome = tuple[str, int, int]
"""A problem's id, how many of its rollouts were right, and how many were graded."""


class CurriculumAtWork(Protocol):
    """A curriculum in a run. What it draws depends on the seed, the step and what it was told, on
    nothing else: so that all processes draw alike, and a resumed run as the whole one."""

    def draw(self, step: int, count: int) -> list[int]:
        """The problems of a step that generates rollouts, from 0, by number: `count`, over all
        processes."""
        ...

    def record(self, outcomes: Sequence[Outcome]) -> None:
        """How the rollouts of such a step came out, on all processes."""
        ...

    @property
    def measured(self) -> Mapping[str, float]:
        """What is logged."""
        return {}

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class Curriculum(Protocol):
    """How often each problem is drawn. One of your own inherits what it does not say otherwise."""

    def begin(self, problems: Sequence[Problem], seed: int) -> CurriculumAtWork:
        """The curriculum at work on a training set."""
        ...


@part
class Frontier(Curriculum):
    """Problems that are neither solved nor hopeless come most often: each is drawn with a weight of
    p (1 - p), p the share of its rollouts that were right of late.

    An outcome counts half after `half_life` steps that generate. Every problem begins with `prior`
    rollouts, half of them right, which do not fade: one that was never tried, or long ago, weighs
    1/4, as much as any can. No problem comes twice in a step before all have come. The weight is
    PACED's (2026, arXiv 2603.11178), which puts it on the loss; that it chooses what is sampled,
    and that it forgets, are ours.
    """

    half_life: Annotated[float, Field(gt=0)] = 50.0
    prior: Annotated[float, Field(gt=0)] = 1.0
    type: Literal["frontier"] = "frontier"

    def begin(self, problems: Sequence[Problem], seed: int) -> CurriculumAtWork:
        # Imported here: problems are read, and reports made, without torch.
        from opsd.data.frontier import FrontierAtWork

        return FrontierAtWork(self.half_life, self.prior, problems, seed)


AnyCurriculum = Annotated[Curriculum, Slot("curriculum", Curriculum, (Frontier,))]


def outcomes(groups: Sequence[Group]) -> list[Outcome]:
    """How the graded rollouts of some groups came out."""
    made = []
    for group in groups:
        verdicts = [r.verdict for r in group.rollouts if r.verdict is not None]
        made.append((group.problem.id, sum(v.correct for v in verdicts), len(verdicts)))
    return made
