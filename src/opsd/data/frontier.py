"""The frontier curriculum at work in a run (its settings are in `curriculum.py`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from opsd.types import Problem


class FrontierAtWork:
    """The outcomes of a run so far, which fade: an outcome counts half after `half_life` steps.
    Every problem begins with `prior` rollouts, half of them right."""

    def __init__(
        self, half_life: float, prior: float, problems: Sequence[Problem], seed: int
    ) -> None:
        self.half_life, self.prior, self.seed = half_life, prior, seed
        # Copies of a problem share their outcomes.
        first = {p.id: i for i, p in reversed(list(enumerate(problems)))}
        self._number = first
        self._of = torch.tensor([first[p.id] for p in problems])
        self._right, self._graded = (
            torch.zeros(len(problems), dtype=torch.float64) for _ in range(2)
        )

    @property
    def pass_rates(self) -> torch.Tensor:
        """The running share of right rollouts of every problem, in float64."""
        own = (self._right + self.prior / 2) / (self._graded + self.prior)
        return own[self._of]

    def draw(self, step: int, count: int) -> list[int]:
        """Draws without replacement, in the order of log weight + Gumbel noise (Efraimidis and
        Spirakis 2006); a set smaller than a step is drawn as a whole, repeatedly."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        rates, drawn = self.pass_rates, []
        while len(drawn) < count:
            uniform = torch.rand(len(rates), dtype=torch.float64, generator=generator)
            noise = -torch.log(-torch.log(uniform.clamp(min=1e-300)))
            keys = torch.log(rates * (1 - rates)) + noise
            drawn += keys.argsort(descending=True, stable=True).tolist()
        return drawn[:count]

    def record(self, outcomes: Sequence[tuple[str, int, int]]) -> None:
        kept = 0.5 ** (1 / self.half_life)
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
