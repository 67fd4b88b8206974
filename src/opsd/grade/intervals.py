"""How certain a mean is: all 95 % intervals are computed here.

A mean over problems (and over training seeds, and over languages) is uncertain because other
problems and other seeds might have been drawn. Problems and seeds are crossed random effects: every
seed meets every problem. An analysis of variance separates their variances (Searle, Casella and
McCulloch, Variance Components, 1992, ch. 4); degrees of freedom are Satterthwaite's (1946). A
bootstrap over seeds covers less, since no resample reaches beyond the largest seed: with three
seeds and a standard deviation of avg@k between seeds of 0.2, its 95 % interval contains the true
value in 82 % of cases.

Near the ends of the scale, intervals are Wilson's (1927) with the number of independent trials that
has this variance (Dean and Pagano, J. Surv. Stat. Methodol. 3, 2015), so that they stay on the
scale, and a score of 1 does not have an interval of width 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

LEVEL = 0.95
"""Confidence level of every interval."""

FEWEST = 6
"""With fewer problems no difference can be told from chance: even if all of five changed in the
same direction, the sign test's two-sided p would be 1/16."""

Bounds = tuple[float, float]
SHARE: Bounds = (0.0, 1.0)
CHANGE: Bounds = (-1.0, 1.0)
"""Scales of a score, and of the difference between two."""


@dataclass(frozen=True)
class Estimate:
    """A mean and its standard errors below and above it, in the mean's unit; `df` are their degrees
    of freedom."""

    value: float
    below: float
    above: float
    df: float

    @property
    def interval(self) -> tuple[float, float]:
        """Low and high end of the 95 % interval."""
        t = _quantile(self.df)
        return self.value - t * self.below, self.value + t * self.above


def estimate(
    strata: Sequence[ArrayLike], weights: Sequence[float] | None = None, bounds: Bounds = SHARE
) -> Estimate:
    """The mean of the strata's means, unweighted or with these `weights`.

    A stratum contains scores, [problem] or [seed, problem], between the `bounds`: the problems of
    one language, or of one level of difficulty. Strata were chosen, not drawn, so the choice adds
    nothing to the uncertainty. Without seeds the interval is about this one trained model.

    Raises ValueError for a stratum without scores, and for a score that is not a finite number.

    >>> low, high = estimate([[1.0, 0.5, 1.0, 0.0]]).interval
    >>> round(low, 2), round(high, 2)
    (0.12, 0.95)
    """
    if len(strata) == 0:
        raise ValueError("a mean needs at least one stratum")
    return combined([_of(_matrix(stratum), bounds) for stratum in strata], weights)


def combined(estimates: Sequence[Estimate], weights: Sequence[float] | None = None) -> Estimate:
    """The mean of independent estimates, unweighted or with these `weights`. Its interval is
    computed from theirs by adding up squares (MOVER: Zou and Donner, Stat. Med. 27, 2008)."""
    raw = np.ones(len(estimates)) if weights is None else np.asarray(weights, dtype=np.float64)
    shares = raw / raw.sum()
    value = float(sum(w * e.value for w, e in zip(shares, estimates, strict=True)))
    below, above = (
        float(sum((w * side) ** 2 for w, side in zip(shares, sides, strict=True)))
        for sides in ([e.below for e in estimates], [e.above for e in estimates])
    )
    parts = [w**2 * (e.below**2 + e.above**2) / 2 for w, e in zip(shares, estimates, strict=True)]
    df = _satterthwaite(zip(parts, (e.df for e in estimates), strict=True))
    return Estimate(value, math.sqrt(below), math.sqrt(above), df)


def recalled(value: float, interval: tuple[float, float], problems: int) -> Estimate:
    """The estimate for one seed on this many problems, reconstructed from its stored interval."""
    df = max(problems - 1, 1)
    t = _quantile(df)
    return Estimate(value, (value - interval[0]) / t, (interval[1] - value) / t, df)


def crossed(scores: NDArray[np.float64]) -> tuple[float, float]:
    """The variance of the mean of scores [seed, problem], and its degrees of freedom."""
    seeds, problems = scores.shape
    if problems == 1:
        return 0.0, 1.0
    grand, by_seed, by_problem = scores.mean(), scores.mean(1), scores.mean(0)
    squares = seeds * float(((by_problem - grand) ** 2).sum()) / (problems - 1)
    parts = [(squares, problems - 1)]
    if seeds > 1:
        among = problems * float(((by_seed - grand) ** 2).sum()) / (seeds - 1)
        both = (seeds - 1) * (problems - 1)
        rest = float(((scores - by_seed[:, None] - by_problem + grand) ** 2).sum()) / both
        # Both mean squares contain the residual variance; seeds that differ by no more than that
        # add nothing.
        if among > rest:
            parts += [(among, seeds - 1), (-rest, both)]
    return sum(part for part, _ in parts) / scores.size, _satterthwaite(parts)


def linearized(influences: Iterable[NDArray[np.float64]], value: float) -> Estimate:
    """The estimate of any number computed from several strata's cells. `influences` contains
    [seed, problem] for each stratum: what the number would be, to first order, if all cells were
    like this one (the infinitesimal jackknife, Efron 1982)."""
    parts = [crossed(cells) for cells in influences]
    error = math.sqrt(sum(variance for variance, _ in parts))
    return Estimate(value, error, error, _satterthwaite(parts))


def _of(scores: NDArray[np.float64], bounds: Bounds) -> Estimate:
    low, high = bounds
    variance, df = crossed(scores)
    t, mean = _quantile(df), float(scores.mean())
    x, scaled = (mean - low) / (high - low), variance / (high - low) ** 2
    problems = scores.shape[1]
    if scaled < 1e-12:
        # All problems have the same score: Wilson's interval for the share of those that would not.
        other = t**2 / (problems + t**2)
        below, above = other * x, other * (1 - x)
    else:
        trials = x * (1 - x) / scaled
        centre = (x + t**2 / (2 * trials)) / (1 + t**2 / trials)
        half = t * math.sqrt(x * (1 - x) / trials + t**2 / (4 * trials**2)) / (1 + t**2 / trials)
        below, above = x - (centre - half), centre + half - x
    width = (high - low) / t
    return Estimate(mean, width * below, width * above, df)


def _matrix(stratum: ArrayLike) -> NDArray[np.float64]:
    scores = np.atleast_2d(np.asarray(stratum, dtype=np.float64))
    if scores.ndim != 2 or scores.size == 0:
        raise ValueError("every stratum needs one score for each problem, and at least one problem")
    if not np.isfinite(scores).all():
        raise ValueError("a problem's score is not a finite number")
    return scores


def _satterthwaite(parts: Iterable[tuple[float, float]]) -> float:
    """Degrees of freedom of a sum of mean squares, each given with its own."""
    known = list(parts)
    total = sum(part for part, _ in known)
    squares = sum(part**2 / df for part, df in known)
    least = min(df for _, df in known)
    return float(max(total**2 / squares, 1.0) if squares > 0 else least)


@cache
def _quantile(df: float) -> float:
    from scipy import stats

    return float(stats.t.ppf(0.5 + LEVEL / 2, df))
