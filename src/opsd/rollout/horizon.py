"""Horizons, the number of tokens that a completion may have: (step, total_steps, limit) -> tokens.

Tokens after the horizon are neither sampled nor trained on; a completion that is cut has no end
token.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal, Protocol

from pydantic import Field

from opsd.parts import Slot, part
from opsd.schedule import Share, at
from opsd.types import UserError


class Horizon(Protocol):
    """step from 0, total_steps, limit in tokens -> tokens."""

    def __call__(self, step: int, total_steps: int, limit: int) -> int: ...


@part
class FullHorizon(Horizon):
    """Every completion may use the whole completion limit."""

    type: Literal["full"] = "full"

    def __call__(self, step: int, total_steps: int, limit: int) -> int:
        return limit


@part
class Truncated(Horizon):
    """The first `rho` of the completion limit, constant or scheduled (TOPD, Zhang et al. 2026,
    arXiv 2605.31490). Raises UserError if that is less than one token."""

    rho: Share = 0.25
    type: Literal["truncated"] = "truncated"

    def __call__(self, step: int, total_steps: int, limit: int) -> int:
        horizon = int(at(self.rho, step, total_steps) * limit + 1e-9)
        if horizon < 1:
            raise UserError(
                f"the horizon at step {step + 1} is below one token of {limit}: raise rho, or"
                " max_completion_length"
            )
        return horizon


@part
class Progressive(Horizon):
    """min(limit, start + growth floor(step / every)) tokens (POPD, Zhang et al. 2026, arXiv
    2605.31490).

    The paper does not state its numbers. By default the horizon starts at a tenth of the limit, and
    grows by a tenth after every tenth of the run.
    """

    start: Annotated[int, Field(gt=0)] | None = None
    growth: Annotated[int, Field(ge=0)] | None = None
    every: Annotated[int, Field(gt=0)] | None = None
    type: Literal["progressive"] = "progressive"

    def __call__(self, step: int, total_steps: int, limit: int) -> int:
        tenth = math.ceil(limit / 10)
        start = tenth if self.start is None else self.start
        growth = tenth if self.growth is None else self.growth
        every = max(1, total_steps // 10) if self.every is None else self.every
        return min(limit, start + growth * (step // every))


AnyHorizon = Annotated[Horizon, Slot("horizon", Horizon, (FullHorizon, Truncated, Progressive))]
