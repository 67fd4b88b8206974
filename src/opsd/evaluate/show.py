"""Prints results of evaluations and comparisons as tables, on standard error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from opsd.console import in_width, log
from opsd.grade.intervals import FEWEST, Estimate, combined, recalled
from opsd.grade.metrics import mean_of_known
from opsd.suites.files import Suite
from opsd.suites.labels import CORRECTED, UPSTREAM
from opsd.suites.published import ours

Row = Mapping[str, Any]
MEAN = "mean"
"""Stands for the mean over languages."""
_SHARES = (
    *("avg@k", "pass@k", "maj@k", "format_rate", "accuracy_given_format", "cut_off"),
    *("repetition", "language_fidelity"),
)
_HEADINGS = (
    *("avg@k", "95 %", "pass@k", "format", "cut off", "tokens"),
    *("maj@k", "if boxed", "repeats", "in lang."),
)
_REST = ("maj@k", "accuracy_given_format", "repetition", "language_fidelity")
_REWARD = "reward"


def show_results(results: Sequence[Row], aside: Sequence[str]) -> None:
    """Prints one table: a line per result, with the models' lines next to each other, their splits,
    and each model's mean over the languages not `aside`."""
    rows = [*results, *means(results, aside)]
    names, languages, budgets = (
        [*dict.fromkeys(row[key] for row in rows)] for key in ("model", "language", "budget")
    )
    counts = [row["n_problems"] for row in results]
    least, most = min(counts), max(counts)
    asked = f"{most:,}" if least == most else f"{least:,} to {most:,}"
    title = f"{asked} problems x {rows[0]['samples']} samples"
    if len(names) == 1:
        title = f"{names[0]}: {title}"
    if len(budgets) == 1:
        title += f", at most {budgets[0]:,} tokens"
    keys = ["model"] * (len(names) > 1) + ["language"] + ["budget"] * (len(budgets) > 1)
    rewarded = any(_REWARD in row for row in rows)
    table = _table(keys, (*_HEADINGS, *([_REWARD] if rewarded else [])), title)

    def place(row: Row) -> tuple[Any, ...]:
        kind = languages.index(row["language"]), row["labels"]
        return *kind, budgets.index(row["budget"]), names.index(row["model"])

    for row in sorted(rows, key=place):
        splits = (row.get("splits") or {}).items()
        for split, scores in splits:
            named = f"{_language(row)} {split} (x {scores['weight']:g})"
            _add_scores(table, keys, {**row, **scores, "language": named}, rewarded)
        named = f"{_language(row)}{' weighted' if splits else ''}"
        _add_scores(table, keys, {**row, "language": named}, rewarded)
    _print(table, keys=len(keys))
    _warn_of_few(least)


def _add_scores(table: Table, keys: Sequence[str], row: Row, rewarded: bool) -> None:
    table.add_row(
        *(f"{row[key]:,}" if key == "budget" else row[key] for key in keys),
        _share(row["avg@k"]),
        _interval(row["interval"]),
        *(_share(row.get(name)) for name in ("pass@k", "format_rate", "cut_off")),
        "" if row.get("mean_length") is None else f"{row['mean_length']:,.0f}",
        *(_share(row.get(name)) for name in _REST),
        *(["" if row.get(_REWARD) is None else f"{row[_REWARD]:.3f}"] if rewarded else []),
    )


def _language(row: Row) -> str:
    return f"{row['language']}{' corrected' if row['labels'] == CORRECTED else ''}"


def means(results: Sequence[Row], aside: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Unweighted means over languages, per model, budget and set of labels. The mean of corrected
    results includes the upstream ones of languages that need no correction. There is no mean of a
    single language."""
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
                    "language": MEAN,
                    "labels": labels,
                    "budget": budget,
                    "n_problems": sum(row["n_problems"] for row in chosen.values()),
                    "samples": samples,
                    "interval": list(combined(list(map(_estimate, chosen.values()))).interval),
                    **{
                        name: mean_of_known(row.get(name) for row in chosen.values())
                        for name in (*_SHARES, "mean_length", *({_REWARD} & own[0].keys()))
                    },
                }
            )
    return made


def _estimate(row: Row) -> Estimate:
    return recalled(row["avg@k"], row["interval"], row["n_problems"])


def show_published(numbers: Sequence[Row], results: Sequence[Row], suite: Suite) -> None:
    """Prints published numbers for reference, and each model's own score if it was measured in the
    same way."""
    if not numbers:
        return
    heads = ("published", "model", "method", "where", "language", "budget")
    table = _table(heads, ("value", "ours"))
    for number in numbers:
        table.add_row(
            " ".join(filter(None, (number["suite"], number["split"], number["metric"]))),
            number.get("model", ""),
            number.get("method", ""),
            number["where"],
            number["language"] or "mean",
            "" if number["budget"] is None else f"{number['budget']:,}",
            f"{number['value']:.2f} %",
        )
        for own in ours(number, results, suite):
            value = f"{100 * own.value:.2f} %"
            table.add_row("", own.model, "", "", "", f"{own.budget:,}", "", value)
    _print(table)


def show_selection(told: Row) -> None:
    """Prints a run's checkpoints with their dev and test scores: which one is chosen on dev, and by
    how much a choice on test would flatter."""
    chosen, best = told["chosen_on_dev"], told["best_on_test"]
    table = _table(("checkpoint", ""), ("dev avg@k", "test avg@k"), title=f"Which of {told['run']}")
    for row in told["checkpoints"]:
        marks = [
            *(["chosen on dev"] if chosen and row["step"] == chosen["step"] else []),
            *(["best on test"] if row["step"] == best["step"] else []),
        ]
        table.add_row(str(row["step"]), ", ".join(marks), _share(row["dev"]), _share(row["test"]))
    _print(table)
    score = f"report {chosen['test']:.3f}" if chosen else "no dev scores to choose by"
    log(
        f"{score}; the best on test, {best['test']:.3f}, flatters by about"
        f" {max(0.0, told['optimism']):.3f} (chosen on half of the problems, judged on the others)"
    )


def show_comparisons(comparisons: Sequence[Row], baseline: str) -> None:
    """Prints a table per model, suite and budget: one line per comparison with the baseline."""
    for key in dict.fromkeys(map(_key, comparisons)):
        model, suite, budget = key
        table = _table(
            ("language",),
            ("metric", "base", "model", "change", "95 %", "p", "adjusted", "won-lost-tied"),
            title=f"{model} against {baseline}, {suite} at {budget:,} tokens",
        )
        for row in comparisons:
            if _key(row) == key:
                _add_comparison(table, row)
        _print(table, keys=2)
        _warn_of_few(min(r["n_problems"] for r in comparisons if _key(r) == key))


def _key(row: Row) -> tuple[str, str, int]:
    return row["model"], row["suite"], row["budget"]


def _warn_of_few(problems: int) -> None:
    if problems < FEWEST:
        named = f"{problems} problem{'s are' if problems != 1 else ' is'}"
        log(f"{named} too few to tell one model from another: use at least {FEWEST}")


def _add_comparison(table: Table, row: Row) -> None:
    low, high = row["interval"]
    table.add_row(
        _language(row),
        row["metric"],
        _share(row["baseline"]),
        _share(row["value"]),
        f"{row['difference']:+.3f}",
        f"{low:+.2f} to {high:+.2f}",
        _p(row["p"]),
        _p(row["p_adjusted"]),
        f"{row['wins']}-{row['losses']}-{row['ties']}",
    )


def _print(table: Table, keys: int = 1) -> None:
    # Names and sources are the user's: `[x]` and `:x:` in them are not styles or emojis.
    console = Console(markup=False, emoji=False)
    console.print()
    for part in in_width(table, console.width, keys):
        console.print(part)


def _table(texts: Sequence[str], numbers: Sequence[str], title: str = "") -> Table:
    table = Table(
        title=title or None,
        title_justify="left",
        title_style="bold",
        header_style="italic",
        box=None,
        padding=(0, 2, 0, 0),
    )
    for heading in texts:
        table.add_column(heading, overflow="fold", min_width=len(heading))
    for heading in numbers:
        table.add_column(heading, no_wrap=True, justify="right")
    return table


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _p(value: float) -> str:
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def _interval(ends: Sequence[float] | None) -> str:
    return "" if ends is None else f"{ends[0]:.2f}-{ends[1]:.2f}"
