"""A number that a paper prints, beside ours: only where both are of the same thing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from opsd.evaluate.labels import UPSTREAM
from opsd.evaluate.suites import SUITES

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Ours:
    """A model's own score, a share between 0 and 1, at a budget in tokens."""

    model: str
    budget: int
    value: float


def ours(printed: Row, results: Iterable[Row]) -> list[Ours]:
    """The scores that answer to a printed number, by model and budget: of the same suite, whole,
    with the same k and budget, under the labels of that time; of its language, or the mean over
    languages, where every one is there that the suite's published mean has."""
    kind, _, samples = str(printed.get("metric", "")).partition("@")
    if printed.get("split"):
        return []  # results do not say of which part of a suite they are
    alike: dict[tuple[str, int], dict[str, float]] = {}
    for row in results:
        if (
            row["suite"] == printed.get("suite")
            and str(row["samples"]) == samples
            and f"{kind}@k" in row
            and row.get("labels", UPSTREAM) == UPSTREAM
            and printed.get("budget") in (None, row["budget"])
            and _whole(row)
        ):
            place = (str(row["model"]), int(row["budget"]))
            alike.setdefault(place, {})[row["language"]] = float(row[f"{kind}@k"])
    wanted = [printed["language"]] if printed.get("language") else _published_languages(printed)
    return [
        Ours(model, budget, _mean(scores[code] for code in wanted or scores))
        for (model, budget), scores in alike.items()
        if (set(wanted) <= scores.keys() if wanted else len(scores) == 1)
    ]


def _whole(row: Row) -> bool:
    known = SUITES.get(str(row["suite"]))
    return known is None or known.size in (None, row.get("n_problems"))


def _published_languages(printed: Row) -> list[str]:
    """The languages of a suite's published mean; none where we do not know the suite."""
    known = SUITES.get(str(printed.get("suite")))
    return [code for code in known.languages if code not in known.aside] if known else []


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return sum(listed) / len(listed)
