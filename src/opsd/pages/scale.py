"""Positions of numbers on a line that is 100 wide, for plots that templates draw."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """A line from `low` to `high`, in the unit of the numbers."""

    low: float
    high: float

    def x(self, value: float | None) -> float:
        """A number's position, 0 to 100; None is placed at the number 0."""
        value = value or 0.0
        return round(100 * (value - self.low) / (self.high - self.low), 2)


def scale(numbers: Iterable[float | None]) -> Scale:
    """A line that includes all of these numbers and 0, with a margin."""
    known = [0.0, *(x for x in numbers if x is not None)]
    low, high = min(known), max(known)
    margin = 0.04 * (high - low or 1.0)
    return Scale(low - margin, high + margin)
