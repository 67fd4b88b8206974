"""Numbers that depend on the step; a horizon is one in tokens."""

from __future__ import annotations

from typing import Literal

from opsd.parts import part


@part
class FullHorizon:
    """Every completion may use the whole completion limit."""

    type: Literal["full"] = "full"

    def __call__(self, step: int, total_steps: int, max_completion_length: int) -> int:
        return max_completion_length


AnyHorizon = FullHorizon
