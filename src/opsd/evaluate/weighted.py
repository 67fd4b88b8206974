"""The scores of a suite's splits as one: difficulty-weighted accuracy, where weights grow with the
level."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from opsd.types import UserError

Scores = Mapping[str, Any]
_COUNTED = {"n_problems", "samples", "pass_curve", "interval", "accuracy_given_format"}


def weighted(parts: Mapping[str, Scores], weights: Mapping[str, float]) -> dict[str, Any]:
    """Means over splits, `weights` by their names; numbers of problems are added up. The splits'
    own scores stay, under `splits`. The interval is not made of theirs and is left out.

    >>> parts = {"low": {"n_problems": 5, "avg@k": 0.9}, "top": {"n_problems": 5, "avg@k": 0.0}}
    >>> made = weighted(parts, {"low": 1, "top": 8})
    >>> made["n_problems"], round(made["avg@k"], 3)
    (10, 0.1)
    """
    first = next(iter(parts.values()))
    made = {
        name: sum(part[name] for part in parts.values()) if name == "n_problems" else first[name]
        for name in ("n_problems", "samples")
        if name in first
    }
    made |= {name: _weighted_mean(name, parts, weights) for name in first if name not in _COUNTED}
    if "pass_curve" in first:
        curves = [[(weights[s], p) for p in part["pass_curve"]] for s, part in parts.items()]
        made["pass_curve"] = [_average(points) for points in zip(*curves, strict=False)]
    if "accuracy_given_format" in first:
        # What is right states an answer, so that this is the share of the one in the other.
        formed = made["format_rate"]
        made["accuracy_given_format"] = made["avg@k"] / formed if formed else None
    return made | {"splits": {s: {"weight": weights[s], **part} for s, part in parts.items()}}


def shares(splits: Iterable[str], weights: Mapping[str, float], where: str) -> dict[str, float]:
    """What part each of these splits has in the score of them all; of a suite without splits, whose
    problems are of split "", that is all of it. `where` the weights were looked for is named in the
    UserError for a split without one.

    >>> shares(["low", "top"], {"low": 1, "medium": 2, "top": 3}, "here")
    {'low': 0.25, 'top': 0.75}
    """
    names = list(dict.fromkeys(splits))
    if names == [""] and not weights:
        return {"": 1.0}
    unknown = [name for name in names if name not in weights]
    if unknown:
        raise UserError(
            f"{where}: split '{unknown[0]}' has no weight there, so that its part in the score is"
            " not known; `opsd evaluate` on the same suite and --output writes it down"
        )
    total = sum(weights[name] for name in names)
    return {name: weights[name] / total for name in names}


def _weighted_mean(
    name: str, parts: Mapping[str, Scores], weights: Mapping[str, float]
) -> float | None:
    """The weighted mean over the splits that have the number."""
    known = [(weights[s], part[name]) for s, part in parts.items() if part[name] is not None]
    return _average(known) if known else None


def _average(points: Any) -> float:
    return sum(w * value for w, value in points) / sum(w for w, _ in points)
