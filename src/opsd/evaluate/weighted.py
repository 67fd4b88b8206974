"""Combines the scores of a suite's splits: difficulty-weighted accuracy, if weights grow with the
level."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from opsd.types import UserError

Scores = Mapping[str, Any]
_COUNTED = {"n_problems", "samples", "pass_curve", "interval", "accuracy_given_format"}


def weighted(parts: Mapping[str, Scores], weights: Mapping[str, float]) -> dict[str, Any]:
    """Means over splits with `weights`, which are by split name; numbers of problems are added up.
    The splits' own scores stay, under `splits`. The interval cannot be computed from theirs and is
    left out.

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
        # Every right sample states an answer, so this is the share of right ones among those.
        formed = made["format_rate"]
        made["accuracy_given_format"] = made["avg@k"] / formed if formed else None
    return made | {"splits": {s: {"weight": weights[s], **part} for s, part in parts.items()}}


def shares(splits: Iterable[str], weights: Mapping[str, float], where: str) -> dict[str, float]:
    """The share of each of these splits in their common score. A suite without splits has the one
    split "", with share 1. The UserError for a split without a weight names `where` the weights
    were looked for.

    >>> shares(["low", "top"], {"low": 1, "medium": 2, "top": 3}, "here")
    {'low': 0.25, 'top': 0.75}
    """
    names = list(dict.fromkeys(splits))
    if names == [""] and not weights:
        return {"": 1.0}
    unknown = [name for name in names if name not in weights]
    if unknown:
        raise UserError(
            f"{where}: split '{unknown[0]}' has no weight there, so its share of the score is not"
            " known; run `opsd evaluate` with the same suite and --output, which stores it"
        )
    total = sum(weights[name] for name in names)
    return {name: weights[name] / total for name in names}


def _weighted_mean(
    name: str, parts: Mapping[str, Scores], weights: Mapping[str, float]
) -> float | None:
    """The weighted mean over the splits in which this number is known."""
    known = [(weights[s], part[name]) for s, part in parts.items() if part[name] is not None]
    return _average(known) if known else None


def _average(points: Any) -> float:
    return sum(w * value for w, value in points) / sum(w for w, _ in points)
