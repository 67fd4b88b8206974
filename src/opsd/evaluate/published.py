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
    known = SUITES.get(str(printed.get("suite")))
    # Results do not say of which part of a suite they are, nor whether one that we do not know is
    # whole.
    if known is None or printed.get("split"):
        return []
    alike: dict[tuple[str, int], dict[str, float]] = {}
    for row in results:
        if (
            row.get("suite") == printed.get("suite")
            and str(row.get("samples")) == samples
            and f"{kind}@k" in row
            and row.get("labels", UPSTREAM) == UPSTREAM
            and printed.get("budget") in (None, row.get("budget"))
            and row.get("n_problems") == known.size
        ):
            place = (str(row["model"]), int(row["budget"]))
            alike.setdefault(place, {})[row["language"]] = float(row[f"{kind}@k"])
    wanted = [code for code in known.languages if code not in known.aside]
    if printed.get("language"):
        wanted = [str(printed["language"])]
    return [
        Ours(model, budget, sum(scores[code] for code in wanted) / len(wanted))
        for (model, budget), scores in alike.items()
        if set(wanted) <= scores.keys()
    ]
