"""Curricula: which problems are worth a step's rollouts by now, by how their rollouts came out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Protocol

import torch
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

    def begin(self, problems: Sequence[Problem], seed: int) -> FrontierAtWork:
        return FrontierAtWork(self, problems, seed)


class FrontierAtWork(CurriculumAtWork):
    """The outcomes of a run so far, those of old ones faded."""

    def __init__(self, curriculum: Frontier, problems: Sequence[Problem], seed: int) -> None:
        self.curriculum, self.seed = curriculum, seed
        # Copies of a problem share what is known of it.
        first = {p.id: i for i, p in reversed(list(enumerate(problems)))}
        self._number = first
        self._of = torch.tensor([first[p.id] for p in problems])
        self._right, self._graded = (
            torch.zeros(len(problems), dtype=torch.float64) for _ in range(2)
        )

    @property
    def pass_rates(self) -> torch.Tensor:
        """The running share of right rollouts of every problem, in float64."""
        prior = self.curriculum.prior
        own = (self._right + prior / 2) / (self._graded + prior)
        return own[self._of]

    def draw(self, step: int, count: int) -> list[int]:
        """Without replacement, by the order of log weight + Gumbel noise (Efraimidis and Spirakis
        2006); a set smaller than a step is drawn as a whole, again and again."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        rates, drawn = self.pass_rates, []
        while len(drawn) < count:
            uniform = torch.rand(len(rates), dtype=torch.float64, generator=generator)
            noise = -torch.log(-torch.log(uniform.clamp(min=1e-300)))
            keys = torch.log(rates * (1 - rates)) + noise
            drawn += keys.argsort(descending=True, stable=True).tolist()
        return drawn[:count]

    def record(self, outcomes: Sequence[Outcome]) -> None:
        kept = 0.5 ** (1 / self.curriculum.half_life)
        self._right *= kept
        self._graded *= kept
        for problem, right, graded in outcomes:
            self._right[self._number[problem]] += right
            self._graded[self._number[problem]] += graded

    @property
    def measured(self) -> Mapping[str, float]:
        known = self._graded > 0
        rates = self.pass_rates[known[self._of]]
        return {
            "pass_rate": rates.mean().item() if len(rates) else 0.5,
            "tried": known[self._of].double().mean().item(),
        }

    def state_dict(self) -> dict[str, Any]:
        tried = self._graded.nonzero().squeeze(-1).tolist()
        return {
            "tried": tried,
            "right": self._right[tried].tolist(),
            "graded": self._graded[tried].tolist(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for column, name in ((self._right, "right"), (self._graded, "graded")):
            column.zero_()
            column[state["tried"]] = torch.tensor(state[name], dtype=torch.float64)


AnyCurriculum = Annotated[Curriculum, Slot("curriculum", Curriculum, (Frontier,))]


def outcomes(groups: Sequence[Group]) -> list[Outcome]:
    """How the graded rollouts of some groups came out."""
    made = []
    for group in groups:
        verdicts = [r.verdict for r in group.rollouts if r.verdict is not None]
        made.append((group.problem.id, sum(v.correct for v in verdicts), len(verdicts)))
    return made
