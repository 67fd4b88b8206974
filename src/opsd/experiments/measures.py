"""What a claim measures on its arms' counts, and how sure that is.

Counts are sums per problem, so that every metric is a quotient of two sums. The problems, and the
random numbers of a seed, are the same for all arms of a claim: an interval follows from how much a
measure changes when a problem of one seed and language, in all arms at once, weighs a little more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from opsd.grade.intervals import linearized

Array = NDArray[np.float64]

METRICS: dict[str, tuple[str, str, float]] = {
    "avg@k": ("correct", "n", 1.0),
    "pass@k": ("passed", "problems", 1.0),
    "format_rate": ("format_ok", "n", 1.0),
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

_NUDGE = 1e-4
"""By how much a cell weighs more; none weighs 1."""

Cells = str | None
"""The language whose cells [seed, problem], one after the other, weigh more; None: no cell does."""


@dataclass(frozen=True)
class Counts:
    """An arm's counts: one array [seed, point, problem, field] per language, and the tokens
    generated at each [seed, point]."""

    fields: tuple[str, ...]
    by_language: Mapping[str, Array]
    tokens: Array

    def curves(self, metric: str, nudged: Cells = None) -> Array:
        """A metric at every point, per language, with each cell in turn: [language, cell, point];
        one row instead of cells where none is `nudged`."""
        name, _, budget = metric.partition(" at ")
        above, below, factor = METRICS[name]
        above = f"{above} at {budget}" if budget else above
        i, j = self.fields.index(above), self.fields.index(below)
        made = [
            factor * _sums(a[..., i], code == nudged) / _sums(a[..., j], code == nudged)
            for code, a in self.by_language.items()
        ]
        return np.stack([np.broadcast_to(x, (self._rows(nudged), x.shape[1])) for x in made])

    def spent(self, nudged: Cells = None) -> Array:
        """Mean tokens generated at every point: [cell, point]."""
        cells = np.repeat(self.tokens[..., None], self._cells // len(self.tokens), -1)
        made = [
            _sums(cells, code == nudged) / _sums(np.ones_like(cells), code == nudged)
            for code in self.by_language
        ]
        return np.broadcast_to(sum(made) / len(made), (self._rows(nudged), cells.shape[1]))

    @property
    def _cells(self) -> int:
        seeds, _, problems, _ = next(iter(self.by_language.values())).shape
        return seeds * problems

    def _rows(self, nudged: Cells) -> int:
        return 1 if nudged is None else self._cells


def _sums(counts: Array, nudged: bool) -> Array:
    """[seed, point, problem] -> [cell, point]."""
    whole = counts.sum((0, 2))[None]
    cells = counts.transpose(0, 2, 1).reshape(-1, counts.shape[1])
    return whole + _NUDGE * cells if nudged else whole


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class MeasureTerm(Strict):
    """A metric of an arm after one of its points; the last one unless `point` says another."""

    arm: str
    metric: str | None = None
    point: int = -1


class Difference(Strict):
    """Metrics of some arms less those of others, languages averaged."""

    type: Literal["difference"] = "difference"
    plus: tuple[MeasureTerm, ...]
    minus: tuple[MeasureTerm, ...]
    metric: str = "avg@k"

    def shown(self) -> dict[str, tuple[str, ...]]:
        """The metrics that matter of each arm."""
        terms = [(term.arm, term.metric or self.metric) for term in (*self.plus, *self.minus)]
        return {arm: tuple(dict.fromkeys(m for a, m in terms if a == arm)) for arm, _ in terms}

    def __call__(self, counts: Mapping[str, Counts], nudged: Cells = None) -> Array:
        def value(term: MeasureTerm) -> Array:
            curves = counts[term.arm].curves(term.metric or self.metric, nudged)
            return curves.mean(0)[:, term.point]

        return sum((value(t) for t in self.plus), np.float64(0)) - sum(
            (value(t) for t in self.minus), np.float64(0)
        )


class TokensTo(Strict):
    """How many times the tokens of `of` another arm, `over`, needs for the best accuracy that it
    ever reaches. Between two points accuracy is taken to lie on a line; the first begins at
    `start`, the untrained model. 0 where `of` never gets there, or `over` never gets beyond its
    start."""

    type: Literal["tokens_to"] = "tokens_to"
    of: str
    over: str
    start: str
    metric: str = "avg@k"

    def shown(self) -> dict[str, tuple[str, ...]]:
        return dict.fromkeys((self.of, self.over, self.start), (self.metric,))

    def __call__(self, counts: Mapping[str, Counts], nudged: Cells = None) -> Array:
        begin = counts[self.start].curves(self.metric, nudged).mean(0)[:, -1:]
        fast, slow = (self._line(counts[arm], begin, nudged) for arm in (self.of, self.over))
        level = slow[1].max(1)
        needed = [self._reached(*(side[b] for side in fast), level[b]) for b in range(len(level))]
        return slow[0][np.arange(len(level)), slow[1].argmax(1)] / np.array(needed)

    def _line(self, arm: Counts, begin: Array, nudged: Cells) -> tuple[Array, Array]:
        spent = arm.spent(nudged)
        accuracy = arm.curves(self.metric, nudged).mean(0)
        return np.hstack([np.zeros_like(spent[:, :1]), spent]), np.hstack([begin, accuracy])

    def _reached(self, tokens: Array, accuracy: Array, level: float) -> float:
        """Tokens at which a curve first comes to a level."""
        for i in range(1, len(tokens)):
            low, high = accuracy[i - 1], accuracy[i]
            if high >= level:
                share = 0.0 if low >= level else (level - low) / (high - low)
                return max(1.0, float(tokens[i - 1] + share * (tokens[i] - tokens[i - 1])))
        return np.inf


class Correlation(Strict):
    """Pearson's correlation of two metrics over an arm's points: the mean over languages, or of
    all points of all languages at once (`pooled`)."""

    type: Literal["correlation"] = "correlation"
    of: str
    x: str
    y: str
    pooled: bool = False

    def shown(self) -> dict[str, tuple[str, ...]]:
        return {self.of: (self.x, self.y)}

    def __call__(self, counts: Mapping[str, Counts], nudged: Cells = None) -> Array:
        x, y = (counts[self.of].curves(metric, nudged) for metric in (self.x, self.y))
        if self.pooled:
            x, y = (a.transpose(1, 0, 2).reshape(1, a.shape[1], -1) for a in (x, y))
        x, y = (a - a.mean(-1, keepdims=True) for a in (x, y))
        norm = np.sqrt((x * x).sum(-1) * (y * y).sum(-1))
        return np.divide((x * y).sum(-1), norm, out=np.zeros_like(norm), where=norm > 0).mean(0)


Measure = Annotated[Difference | TokensTo | Correlation, Field(discriminator="type")]


@dataclass(frozen=True)
class Finding:
    """An effect, its 95 % interval, and what that says of a claim."""

    value: float
    interval: tuple[float, float]
    verdict: Literal["reproduced", "not reproduced", "inconclusive"]


def find(measure: Measure, counts: Mapping[str, Counts], at_least: float) -> Finding:
    """Measures; the verdict is decided by where the interval lies."""
    sizes = {a.shape for c in counts.values() for a in c.by_language.values()}
    seeds, problems = ({shape[i] for shape in sizes} for i in (0, 2))
    if len(seeds) != 1 or len(problems) != 1:
        raise ValueError("arms of one claim are compared on the same seeds and problems")
    value = float(measure(counts)[0])
    languages = dict.fromkeys(code for c in counts.values() for code in c.by_language)
    (s,), (p,) = seeds, problems
    slopes = [(measure(counts, code) - value) / _NUDGE for code in languages]
    low, high = linearized([value + s * p * x.reshape(s, p) for x in slopes], value).interval
    if low >= at_least:
        return Finding(value, (low, high), "reproduced")
    if high < at_least:
        return Finding(value, (low, high), "not reproduced")
    return Finding(value, (low, high), "inconclusive")
