"""Our score for a number that a paper prints: only if both measure the same."""

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
    """The scores that correspond to a printed number, by model and budget: on the same suite (or
    split), on all of its problems, with the same k and budget, and with the upstream labels; in the
    same language, or as the mean over languages, if all languages of the suite's published mean
    were evaluated. `suite` is needed if it is not a published one."""
    kind, _, samples = str(printed.get("metric", "")).partition("@")
    known = suite or SUITES.get(str(printed.get("suite")))
    if known is None:  # it is not known whether its results are complete
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
    """The numbers printed on the suite for models with these names (on the Hub, or of folders);
    owners and case are ignored."""
    asked = {_model(name) for name in names}
    return [number for number in suite.printed() if _model(number["model"]) in asked]


def together(numbers: Sequence[Row], more: Sequence[Row]) -> list[Row]:
    """Numbers from two sources, without duplicates."""
    keys = ("suite", "metric", "value", "language", "split", "budget")
    there = {tuple(number.get(key) for key in keys) for number in numbers}
    return [*numbers, *(n for n in more if tuple(n.get(key) for key in keys) not in there)]


def _model(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2].casefold()
