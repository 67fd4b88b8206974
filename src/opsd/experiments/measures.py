"""What a claim measures from its arms' counts, and how certain that is.

Counts are sums per problem, and every metric is a quotient of two sums. The problems, and the
random numbers of a seed, are the same for all arms of a study, so that differences are paired.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from opsd.grade.intervals import estimate, linearized

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
"""Metric -> its two counts, numerator and denominator, and a factor. Units are tokens, nats or
shares; markers are per thousand tokens, or per sample (`markers_each`). `avg@k at N` counts what is
right within N tokens; the same applies to the other `SHORTENED` metrics."""

SHORTENED = ("avg@k", "pass@k", "format_rate")
SHARES = (*SHORTENED, "right_given_format", "cut_off", "repetition")
"""Metrics between 0 and 1."""
PROBED = ("inside", "before")
"""Metrics that only probes have."""


@dataclass(frozen=True)
class Counts:
    """An arm's counts at one checkpoint: an array [seed, problem, field] per language. Problem i is
    the same in every language; variants of one problem have the same number in `clusters`."""

    fields: tuple[str, ...]
    by_language: Mapping[str, Array]
    clusters: tuple[int, ...] = ()

    def quotient(self, metric: str) -> tuple[float, Array]:
        """A metric, averaged over languages, and the first-order influence of each [seed, problem]
        on it (the delta method), which is zero on average. NaN if a denominator is zero."""
        name, _, budget = metric.partition(" at ")
        above, below, factor = METRICS[name]
        i = self.fields.index(f"{above} at {budget}" if budget else above)
        j = self.fields.index(below)
        share = factor / len(self.by_language)
        value, influence = 0.0, np.zeros(())
        with np.errstate(divide="ignore", invalid="ignore"):
            for cells in self.by_language.values():
                a, b = cells[..., i], cells[..., j]
                ratio = a.sum() / b.sum()
                value += share * ratio
                influence = influence + share * (a - ratio * b) / b.mean()
        return float(value), influence


@dataclass(frozen=True)
class Effect:
    """A number with its 95 % interval, over problems and seeds together."""

    value: float
    interval: tuple[float, float]

    def rounded(self) -> list[float | None]:
        """Value, low and high end; None for numbers that cannot be measured."""
        numbers = (self.value, *self.interval)
        return [round(float(x), 4) if math.isfinite(x) else None for x in numbers]


def effect(terms: Sequence[tuple[float, Counts, str]]) -> Effect:
    """The sum of metrics, each given as (sign, counts, metric).

    Raises ValueError for arms with different seeds or problems.
    """
    sizes = {cells.shape[:2] for _, counts, _ in terms for cells in counts.by_language.values()}
    if len(sizes) != 1:
        raise ValueError("arms must have the same seeds and problems to be compared")
    value, cells = 0.0, np.zeros(())
    for sign, counts, metric in terms:
        own, influence = counts.quotient(metric)
        value, cells = value + sign * own, cells + sign * influence
    if not math.isfinite(value):
        return Effect(math.nan, (math.nan, math.nan))
    together = _clustered(cells, terms[0][1].clusters)
    return Effect(value, linearized([together], value).interval)


def level(counts: Counts, metric: str) -> Effect:
    """A metric of one arm; the interval of a share stays between 0 and 1."""
    value, influence = counts.quotient(metric)
    if metric.partition(" at ")[0] not in SHARES or not math.isfinite(value):
        return effect([(1.0, counts, metric)])
    made = estimate([_clustered(value + influence, counts.clusters)])
    return Effect(value, made.interval)


def _clustered(cells: Array, clusters: Sequence[int]) -> Array:
    """Cells [seed, problem] as [seed, cluster] with the same mean."""
    if not clusters:
        return cells
    names = sorted(set(clusters))
    member = np.array([[cluster == name for name in names] for cluster in clusters], dtype=float)
    return cells @ member * (len(names) / len(clusters))


def verdict(measured: Effect, at_least: float, gain: Effect | None, keeps: float = 0.0) -> str:
    """The verdict on a claim: it depends on where the effect's interval lies, and on whether the
    claimed arm is above the untrained model (`gain`, if accuracy is measured), or not more than
    `keeps` below it. Arms that are equal everywhere, with an interval of width 0, are
    inconclusive."""
    low, high = measured.interval
    if not math.isfinite(measured.value):
        return "not measurable"
    if low == high:
        return "inconclusive"
    if low >= at_least:
        above = gain is None or gain.interval[0] > (-keeps if keeps else 0.0)
        return "reproduced" if above else "not above base"
    return "not reproduced" if high < at_least else "inconclusive"
