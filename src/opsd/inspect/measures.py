"""The numbers of a trace by which tokens can be coloured, with names, units and a common scale."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from opsd.runs.json_files import finite

Row = Mapping[str, Any]

LEVELS = 8
"""Number of shades from no colour to full colour, in either direction."""

FULL_FROM = 0.98
"""The share of tokens below the value of full colour: a few outliers must not set the scale."""

DIVERGENCE, RATIO, LEARNED = "Divergence", "Log-ratio at the sampled token", "What is learned"
ENTROPY, SEEN = "Uncertainty", "What the target saw"

_PARTS = {
    "whole": ("teacher and student", "How far the student is from its teacher."),
    "reference": ("reference-induced", "What the reference alone induces, without the question."),
    "question": ("question-conditioned", "What the question adds to the reference."),
    "base": ("base and student", "How far the student has moved from the model before training."),
    "target": ("target and student", "How far the student is from the target that it learns."),
}
_RATIO = "Orange: the sampled token is likelier under the latter than under the former; blue: less."
# Shown elsewhere on the page, or of no use as a colour.
_KNOWN = ("logp_", "view/", "entropy_", "divergence", "clipped")


@dataclass(frozen=True)
class Series:
    """One number per token of one rollout, with its `meaning` in a sentence. If `signed`, the sign
    matters."""

    key: str
    group: str
    label: str
    meaning: str
    values: Sequence[float | None]
    unit: str = "nats"
    signed: bool = False


@dataclass(frozen=True)
class Measure:
    """A choice on the page: a series' name, the value from which colour is full, over all rollouts,
    and the largest value."""

    key: str
    group: str
    label: str
    meaning: str
    unit: str
    signed: bool
    full: float
    largest: float


def series_of(row: Row) -> Iterator[Series]:
    """Yields all series of a trace, in the order in which the page offers them."""
    several = len(row["signals"]) > 1
    for i, signal in enumerate(row["signals"]):
        if "value" in signal:
            yield from _of_signal(signal, f"{i}/", f" · signal {i + 1}" if several else "")
    for reader in row["readers"]:
        name = reader_label(reader)
        key = f"entropy/{reader.get('signal', '')}/{name}"
        told = "How uncertain the reader is before this token."
        yield Series(key, ENTROPY, f"entropy, {name}", told, reader["entropy"])
    student = next((r for r in row["readers"] if r["name"] == "student"), {})
    if "logp" in student:
        surprise = [None if value is None else -value for value in student["logp"]]
        told = "Minus log p of the sampled token."
        yield Series("surprise", ENTROPY, "surprise, student", told, surprise)


def measures(rows: Sequence[Sequence[Series]]) -> list[Measure]:
    """Every series that any of these rollouts has, on a scale that all of them share."""
    found: dict[str, list[Series]] = {}
    for row in rows:
        for series in row:
            found.setdefault(series.key, []).append(series)
    made = []
    for key, alike in found.items():
        values = [v for series in alike for v in map(finite, series.values) if v is not None]
        sizes = sorted(map(abs, values))
        largest = sizes[-1] if sizes else 0.0
        full = (sizes[math.ceil(FULL_FROM * len(sizes)) - 1] if sizes else 0.0) or largest
        # Values that are below zero only by rounding do not make a series signed.
        signed = alike[0].signed or any(v < -1e-3 * full for v in values)
        one = alike[0]
        about = (key, one.group, one.label, one.meaning, one.unit)
        made.append(Measure(*about, signed, _round_up(full), largest))
    return made


def reader_label(reader: Row) -> str:
    """`student`, `solution (frozen)`, `target`."""
    weights = reader.get("weights")
    return f"{reader['name']} ({weights})" if weights else str(reader["name"])


def _of_signal(signal: Row, prefix: str, suffix: str) -> Iterator[Series]:
    pairs = signal.get("pairs", [])
    for pair in pairs:
        label, told = _named(pair, pairs, suffix)
        key = f"{prefix}divergence/{pair['part']}/{pair['from']}/{pair['to']}"
        yield Series(key, DIVERGENCE, label, told, pair["divergence"])
    if signal["type"] == "distill":
        yield from _as_trained(signal, prefix, suffix)
    for pair in pairs:
        label, _ = _named(pair, pairs, suffix)
        key = f"{prefix}log_ratio/{pair['part']}/{pair['from']}/{pair['to']}"
        yield Series(key, RATIO, f"log-ratio, {label}", _RATIO, pair["log_ratio"], signed=True)
    yield from _learned(signal, prefix, suffix)
    for name, values in signal.get("columns", {}).items():
        if not name.startswith(_KNOWN):
            label = name.removeprefix("target/").replace("_", " ").replace("/", " ") + suffix
            told = "As in the diagnostics of the training log."
            yield Series(f"{prefix}columns/{name}", SEEN, label, told, values, unit="")


def _named(pair: Row, pairs: Sequence[Row], suffix: str) -> tuple[str, str]:
    """The label of a pair of readers, and its meaning."""
    label, told = _PARTS[pair["part"]]
    if pair["part"] == "target" and any(other["part"] == "question" for other in pairs):
        label = "after purification"
    if len(pairs) > 1 and pair["part"] not in ("target", "base"):
        label += f" ({pair['from']} → {pair['to']})"
    return label + suffix, told


def _as_trained(signal: Row, prefix: str, suffix: str) -> Iterator[Series]:
    """Yields the divergence in the loss if no pair of readers shows it, on the signal's support;
    and the divergence after the clip, if that changes it."""
    value, unclipped = signal["value"], signal.get("unclipped", signal["value"])
    pairs = signal.get("pairs", [])
    if not any(_close(pair["divergence"], unclipped) for pair in pairs):
        label = "on the support" if pairs else _PARTS["whole"][0]
        told = _PARTS["target" if pairs else "whole"][1]
        yield Series(f"{prefix}unclipped", DIVERGENCE, label + suffix, told, unclipped)
    if not _close(value, unclipped):
        told = "The divergence after the clip; blue: the clip has changed the sign."
        yield Series(f"{prefix}value", DIVERGENCE, f"after clipping{suffix}", told, value)


def _learned(signal: Row, prefix: str, suffix: str) -> Iterator[Series]:
    """Yields the parts of the loss."""

    def series(name: str, label: str, told: str, values: Any, unit: str = "") -> Series:
        signed = name != "weight" and unit == ""
        return Series(prefix + name, LEARNED, label + suffix, told, values, unit, signed)

    if "advantage" in signal:
        told = "Orange: the token is reinforced; blue: discouraged."
        yield series("advantage", "advantage", told, signal["advantage"])
    for view, values in signal.get("votes", {}).items():
        told = "What this view adds to the advantage; zero if its gate is closed."
        yield series(f"votes/{view}", f"gated vote of {view}", told, values)
    if any(weight != 1 for weight in signal.get("weight", ())):
        told = "The factor by which the token's loss is multiplied."
        yield series("weight", "weight", told, signal["weight"])
    if "loss" in signal:
        told = "The token's loss that enters the reduction."
        yield series("loss", "loss, after weighting", told, signal["loss"], "nats")


def _close(one: Sequence[float | None], other: Sequence[float | None]) -> bool:
    return all(
        a == b if a is None or b is None else abs(a - b) <= 1e-4 + 1e-3 * abs(b)
        for a, b in zip(one, other, strict=True)
    )


def _round_up(value: float) -> float:
    """Rounds up to two digits, for a readable legend; 1 if the value is not positive."""
    if value <= 0:
        return 1.0
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return round(math.ceil(value / unit - 1e-9) * unit, 12)
