"""Curves of a run: numbers against steps or generated tokens, and remarks on them in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from opsd.report.runs import Run
from opsd.runs.json_files import number

FEWEST_STEPS_TO_JUDGE = 10
"""With fewer log lines, no trend is reported."""

_TRAINING = ("rollout", "teacher", "student", "loss")


@dataclass(frozen=True)
class Curve:
    """One line of a figure. `style` is the index of its colour, dash and marker."""

    label: str
    style: int
    x: tuple[float, ...]
    y: tuple[float, ...]
    # Points of single measurements (on a dev split) are marked; noisy curves are smoothed.
    marked: bool = False


@dataclass(frozen=True)
class Third:
    """The divergence by tenth of the completion, in one stage of training."""

    stage: str
    steps: tuple[int, int]
    deciles: tuple[float, ...]


def against_steps(run: Run, name: str, style: int) -> Curve | None:
    """A training metric by optimizer step; None if the run never logged it."""
    points = [(number(row, "step"), number(row, name)) for row in run.train]
    return _curve(run, style, points)


def against_tokens(run: Run, name: str, style: int) -> Curve | None:
    """A training metric by generated tokens."""
    points = [(number(row, "generated_tokens"), number(row, name)) for row in run.train]
    return _curve(run, style, points)


def dev_against_tokens(run: Run, name: str, style: int) -> Curve | None:
    """A dev metric by generated tokens."""
    spent = [(number(row, "step"), number(row, "generated_tokens")) for row in run.train]
    return _dev_against(run, name, style, spent)


def dev_against_minutes(run: Run, name: str, style: int) -> Curve | None:
    """A dev metric by minutes of training, without dev evaluation and start-up; None for a run that
    logged no times."""
    spent: list[tuple[float | None, float | None]] = []
    minutes = 0.0
    for row in run.train:
        parts = [number(row, f"time/{part}") for part in _TRAINING]
        minutes += sum(part or 0.0 for part in parts) / 60
        spent.append((number(row, "step"), minutes))
    return _dev_against(run, name, style, spent) if minutes > 0 else None


def _dev_against(
    run: Run, name: str, style: int, spent: Sequence[tuple[float | None, float | None]]
) -> Curve | None:
    """A dev metric by cost. Dev lines only contain a step; the cost by then is interpolated from
    the training lines."""
    known = [(0.0, 0.0), *((s, x) for s, x in spent if s is not None and x is not None)]
    steps, costs = zip(*known, strict=True)
    points: list[tuple[float | None, float | None]] = [
        (float(np.interp(number(row, "step") or 0.0, steps, costs)), number(row, name))
        for row in run.dev
    ]
    return _curve(run, style, points, marked=True)


def format_and_accuracy(run: Run, name: str, style: int) -> Curve | None:
    """A dev metric by the share of well-formed answers, a point per dev evaluation."""
    points = [(number(row, "eval_format_rate"), number(row, name)) for row in run.dev]
    return _curve(run, style, points, marked=True)


def correlation(curve: Curve) -> float | None:
    """Pearson's correlation of a curve's points; None for fewer than three, or if x or y is
    constant."""
    points = np.array([curve.x, curve.y])
    if points.shape[1] < 3 or points.std(1).min() < 1e-12:
        return None
    return float(np.corrcoef(points)[0, 1])


def deciles(run: Run) -> tuple[Third, ...]:
    """The divergence by position, at the start, in the middle and at the end of training. Each is
    the mean of a tenth of the log lines, because single steps are noisy."""
    rows = [row for row in run.train if number(row, "divergence/decile_0") is not None]
    if not rows:
        return ()
    width = max(1, len(rows) // 10)
    middle = (len(rows) - width) // 2
    stages = {"start": rows[:width], "middle": rows[middle : middle + width], "end": rows[-width:]}
    if len(rows) < 3:
        stages = {"start": rows[:1], "end": rows[1:]} if len(rows) == 2 else {"end": rows}
    found = []
    for stage, part in stages.items():
        # Completions shorter than ten tokens leave some tenths without a token.
        means = []
        for i in range(10):
            values = [number(row, f"divergence/decile_{i}") for row in part]
            known = [value for value in values if value is not None]
            means.append(float(np.mean(known)) if known else float("nan"))
        steps = (int(number(part[0], "step") or 0), int(number(part[-1], "step") or 0))
        found.append(Third(stage, steps, tuple(means)))
    return tuple(found)


def smoothed(values: Sequence[float]) -> tuple[float, ...] | None:
    """A centred moving mean over about a fifteenth of the points; None if there are few."""
    n = len(values)
    if n < 20:
        return None
    half = max(1, n // 30)
    return tuple(float(np.mean(values[max(0, i - half) : i + half + 1])) for i in range(n))


def hidden_divergence(run: Run) -> str | None:
    """A warning if the loss falls while the unclipped divergence rises: a clipped or reweighted
    loss can look better while student and teacher drift apart.

    Compares the mean of the first fifth of the lines with that of the last; both must change by
    at least a twentieth.
    """
    pairs = [(number(row, "loss"), number(row, "divergence")) for row in run.train]
    both = [(loss, gap) for loss, gap in pairs if loss is not None and gap is not None]
    if len(both) < FEWEST_STEPS_TO_JUDGE:
        return None
    fifth = len(both) // 5
    (loss_then, gap_then), (loss_now, gap_now) = (
        np.mean(part, axis=0) for part in (both[:fifth], both[-fifth:])
    )
    if loss_now > loss_then - abs(loss_then) / 20 or gap_now < gap_then * 1.05:
        return None
    return (
        f"{run.label}: the loss falls ({loss_then:.3g} to {loss_now:.3g}) while the unclipped"
        f" divergence rises ({gap_then:.3g} to {gap_now:.3g} nats per token). The loss does not"
        " show that student and teacher drift apart: check the clip and the weighting."
    )


def not_finite(run: Run) -> str | None:
    """Which logged numbers are not finite, such as an overflowed loss or an empty mean."""
    lines = [*run.train, *run.dev]
    counts = Counter(
        name
        for row in lines
        for name, value in row.items()
        if _is_number(value) and number(row, name) is None
    )
    if not counts:
        return None
    told = ", ".join(f"{name} ({count})" for name, count in counts.most_common(5))
    more = f" and {len(counts) - 5} more" if len(counts) > 5 else ""
    return (
        f"{run.label} has logged numbers that are not finite and are left out of figures (number of"
        f" log lines, of {len(lines)}): {told}{more}."
    )


def _is_number(value: Any) -> bool:
    """Whether a number was logged here; null stands for numbers that JSON cannot represent."""
    return value is None or isinstance(value, float)


def _curve(
    run: Run,
    style: int,
    points: Sequence[tuple[float | None, float | None]],
    marked: bool = False,
) -> Curve | None:
    known = [(x, y) for x, y in points if x is not None and y is not None]
    if not known:
        return None
    x, y = zip(*known, strict=True)
    return Curve(run.label, style, x, y, marked)
