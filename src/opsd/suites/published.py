"""A number that a paper prints, beside ours: only where both are of the same thing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from opsd.suites.files import Suite
from opsd.suites.labels import UPSTREAM
from opsd.suites.loading import SUITES

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Ours:
    """A model's own score, a share between 0 and 1, at a budget in tokens."""

    model: str
    budget: int
    value: float


def ours(printed: Row, results: Iterable[Row], suite: Suite | None = None) -> list[Ours]:
    """The scores that answer to a printed number, by model and budget: of the same suite (or of its
    one split), whole, with the same k and budget, under the labels of that time; of its language,
    or the mean over languages, where every one is there that the suite's published mean has.
    `suite` is needed for one that is not published."""
    kind, _, samples = str(printed.get("metric", "")).partition("@")
    known = suite or SUITES.get(str(printed.get("suite")))
    if known is None:  # nobody can say whether its results are whole
        return []
    split = printed.get("split")
    size = known.size if split else known.problems
    alike: dict[tuple[str, int], dict[str, float]] = {}
    for row in results:
        scored = (row.get("splits") or {}).get(split, {}) if split else row
        if (
            row.get("suite") == printed.get("suite")
            and str(row.get("samples")) == samples
            and f"{kind}@k" in scored
            and row.get("labels", UPSTREAM) == UPSTREAM
            and printed.get("budget") == row.get("budget")
            and scored.get("n_problems") == size
        ):
            place = (str(row["model"]), int(row["budget"]))
            alike.setdefault(place, {})[row["language"]] = float(scored[f"{kind}@k"])
    wanted = [code for code in known.languages if code not in known.aside]
    if printed.get("language"):
        wanted = [str(printed["language"])]
    return [
        Ours(model, budget, sum(scores[code] for code in wanted) / len(wanted))
        for (model, budget), scores in alike.items()
        if set(wanted) <= scores.keys()
    ]


def reference(suite: Suite, names: Iterable[str]) -> list[dict[str, Any]]:
    """What is printed of the suite for models of these names (of the hub, of folders); owners and
    case do not count."""
    asked = {_model(name) for name in names}
    return [number for number in suite.printed() if _model(number["model"]) in asked]


def together(numbers: Sequence[Row], more: Sequence[Row]) -> list[Row]:
    """Numbers from two sources, none twice."""
    keys = ("suite", "metric", "value", "language", "split", "budget")
    there = {tuple(number.get(key) for key in keys) for number in numbers}
    return [*numbers, *(n for n in more if tuple(n.get(key) for key in keys) not in there)]


def _model(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2].casefold()
