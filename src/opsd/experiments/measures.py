"""What a claim measures on its arms' counts, and how sure that is.

Counts are sums per problem, so that every metric is a quotient of two sums. The problems, and the
random numbers of a seed, are the same for all arms of a study, so that differences are paired.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from opsd.grade.intervals import linearized

Array = NDArray[np.float64]

METRICS: dict[str, tuple[str, str, float]] = {
    "avg@k": ("correct", "n", 1.0),
    "pass@k": ("passed", "problems", 1.0),
    "format_rate": ("format_ok", "n", 1.0),
    "right_given_format": ("correct", "format_ok", 1.0),
    "cut_off": ("cut_off", "n", 1.0),
    "length": ("tokens", "n", 1.0),
    "markers": ("markers", "tokens", 1000.0),
    "markers_each": ("markers", "n", 1.0),
    "repetition": ("repeated", "grams", 1.0),
    "entropy": ("surprisal", "tokens", 1.0),
    "inside": ("inside", "inside_n", 1.0),
    "before": ("before", "before_n", 1.0),
}
"""Metric -> the two counts that it is the quotient of, and a factor. Tokens, nats, shares; markers
per thousand tokens, or per sample (`markers_each`). `avg@k at N` counts what is right within N
tokens; so do `pass@k at N` and `format_rate at N`."""


@dataclass(frozen=True)
class Counts:
    """An arm's counts at one checkpoint: an array [seed, problem, field] per language."""

    fields: tuple[str, ...]
    by_language: Mapping[str, Array]

    def quotient(self, metric: str) -> tuple[float, dict[str, Array]]:
        """A metric, languages averaged, and what each [seed, problem] of a language adds to it to
        first order (the delta method): zero on average."""
        name, _, budget = metric.partition(" at ")
        above, below, factor = METRICS[name]
        i = self.fields.index(f"{above} at {budget}" if budget else above)
        j = self.fields.index(below)
        share = factor / len(self.by_language)
        value, influence = 0.0, dict[str, Array]()
        for code, cells in self.by_language.items():
            a, b = cells[..., i], cells[..., j]
            ratio = a.sum() / b.sum() if b.any() else np.nan
            value += share * ratio
            influence[code] = share * (a - ratio * b) / b.mean() if b.any() else a * np.nan
        return float(value), influence


@dataclass(frozen=True)
class Effect:
    """A number with its 95 % interval, over problems and seeds together."""

    value: float
    interval: tuple[float, float]

    def rounded(self) -> list[float]:
        """Value, low and high end."""
        return [round(float(x), 4) for x in (self.value, *self.interval)]


def effect(terms: Sequence[tuple[float, Counts, str]]) -> Effect:
    """The sum of metrics, each by a sign: (1, counts, metric).

    Raises ValueError for arms of other seeds or problems.
    """
    sizes = {cells.shape[:2] for _, counts, _ in terms for cells in counts.by_language.values()}
    if len(sizes) != 1:
        raise ValueError("arms are compared on the same seeds and problems")
    value, cells = 0.0, dict[str, Array]()
    for sign, counts, metric in terms:
        own, influence = counts.quotient(metric)
        value += sign * own
        for code, part in influence.items():
            cells[code] = cells.get(code, np.zeros(())) + sign * part
    return Effect(value, linearized(list(cells.values()), value).interval)


def verdict(measured: Effect, at_least: float, gain: Effect | None) -> str:
    """What an effect says of a claim: decided by where its interval lies, and by whether the winner
    is above the untrained model (`gain`, where accuracy is measured)."""
    low, high = measured.interval
    if low >= at_least:
        return "reproduced" if gain is None or gain.interval[0] > 0 else "winner not above base"
    return "not reproduced" if high < at_least else "inconclusive"
