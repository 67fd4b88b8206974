"""Results of evaluations and comparisons as tables for people, on standard error."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from opsd.evaluate.labels import CORRECTED, UPSTREAM
from opsd.recipe import Published

Row = Mapping[str, Any]
_SHARES = ("avg@k", "pass@k", "format_rate", "accuracy_given_format", "cut_off")


def show_results(results: Sequence[Row], aside: Sequence[str]) -> None:
    """One line per result, and their mean over the languages that are not `aside`."""
    labelled = any(row["labels"] == CORRECTED for row in results)
    table = _table(
        ("model", "language", *(("labels",) if labelled else ()), "budget", "problems", "avg@k"),
        ("95 %", "pass@k", "format", "right if stated", "cut off"),
    )
    for row in [*results, *means(results, aside)]:
        table.add_row(
            row["model"],
            row["language"],
            *((row["labels"],) if labelled else ()),
            f"{row['budget']:,}",
            f"{row['n_problems']} x {row['samples']}",
            _share(row["avg@k"]),
            _interval(row["interval"]),
            *(_share(row[name]) for name in _SHARES[1:]),
        )
    Console(stderr=True).print(table)


def means(results: Sequence[Row], aside: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Unweighted means over languages, per model, budget and set of labels: corrected ones are
    joined by the upstream ones of the languages that need no correction. None of one language."""
    counted = [row for row in results if row["language"] not in aside]
    kinds = dict.fromkeys((row["model"], row["budget"], row["samples"]) for row in counted)
    made = []
    for model, budget, samples in kinds:
        own = [
            r
            for r in counted
            if (r["model"], r["budget"], r["samples"]) == (model, budget, samples)
        ]
        upstream = {row["language"]: row for row in own if row["labels"] == UPSTREAM}
        corrected = {row["language"]: row for row in own if row["labels"] == CORRECTED}
        if len(upstream) < 2:
            continue
        sets = {UPSTREAM: upstream, **({CORRECTED: upstream | corrected} if corrected else {})}
        for labels, chosen in sets.items():
            made.append(
                {
                    "model": model,
                    "language": f"mean of {len(chosen)}",
                    "labels": labels,
                    "budget": budget,
                    "n_problems": sum(row["n_problems"] for row in chosen.values()),
                    "samples": samples,
                    "interval": None,
                    **{name: _mean(row[name] for row in chosen.values()) for name in _SHARES},
                }
            )
    return made


def show_published(
    published: Iterable[Published], suite: str, results: Sequence[Row], aside: Sequence[str]
) -> None:
    """What papers print for the recipe's setting, and ours on the same suite where there is one."""
    numbers = [number for number in published if number.suite == suite]
    if not numbers:
        return
    table = _table(("published", "where", "language", "budget"), ("value", "ours"))
    ours = [*results, *means(results, aside)]
    for number in numbers:
        table.add_row(
            f"{number.suite} {number.metric}",
            number.where,
            number.language or "mean",
            "" if number.budget is None else f"{number.budget:,}",
            f"{number.value:.2f} %",
            ", ".join(f"{100 * row[name]:.2f} %" for row, name in _matching(number, ours)),
        )
    Console(stderr=True).print(table)


def _matching(number: Published, rows: Iterable[Row]) -> list[tuple[Row, str]]:
    """Results that answer to a published number: the same k, budget and language, labels as they
    were published."""
    name, _, samples = number.metric.partition("@")
    return [
        (row, f"{name}@k")
        for row in rows
        if f"{name}@k" in row and samples == str(row["samples"]) and row["labels"] == UPSTREAM
        if number.budget in (None, row["budget"])
        if (number.language or "mean") == row["language"].partition(" ")[0]
    ]


def show_comparisons(comparisons: Sequence[Row], baseline: str) -> None:
    """One line per comparison with the baseline."""
    labelled = any(row["labels"] == CORRECTED for row in comparisons)
    table = _table(
        ("against " + baseline, "suite", "language", *(("labels",) if labelled else ()), "budget"),
        ("problems", "metric", "baseline", "model", "difference", "95 %", "won-lost-tied"),
    )
    for row in comparisons:
        low, high = row["interval"]
        table.add_row(
            row["model"],
            row["suite"],
            row["language"],
            *((row["labels"],) if labelled else ()),
            f"{row['budget']:,}",
            str(row["n_problems"]),
            row["metric"],
            _share(row["baseline"]),
            _share(row["value"]),
            f"{row['difference']:+.3f}",
            f"{low:+.3f} to {high:+.3f}",
            f"{row['wins']}-{row['losses']}-{row['ties']}",
        )
    Console(stderr=True).print(table)


def _table(folding: Sequence[str], narrow: Sequence[str]) -> Table:
    table = Table()
    for heading in folding:
        table.add_column(heading, overflow="fold")
    for heading in narrow:
        table.add_column(heading, no_wrap=True)
    return table


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _interval(ends: Sequence[float] | None) -> str:
    return "" if ends is None else f"{ends[0]:.2f}-{ends[1]:.2f}"


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
