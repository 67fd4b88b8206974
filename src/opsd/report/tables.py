"""Tables of a report: rows of numbers, and the same as Markdown or CSV.

Cells keep the input's full precision; only `text` rounds, for display.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from opsd.grade.intervals import estimate
from opsd.grade.metrics import mean_of_known
from opsd.parts import flat
from opsd.report.runs import Comparison, Run, Score, language_name
from opsd.runs.json_files import finite, mapping, number, sequence
from opsd.suites.published import ours

Kind = Literal["text", "share", "points", "interval", "span", "p", "count", "seconds"]
Interval = tuple[float, float]

_PAIRS = ("interval", "span")

NOTHING = "–"  # noqa: RUF001
"""What a cell without a number shows."""

BASE = "base"
"""Stands for the model before any training, in place of a method."""


@dataclass(frozen=True)
class Column:
    """A heading, and the kind of the numbers below it."""

    name: str
    kind: Kind = "text"


@dataclass(frozen=True)
class Table:
    """`rows` contain one value per column. The first `headings` columns identify a row."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Any, ...], ...]
    headings: int = 1


@dataclass(frozen=True)
class Span:
    """Seconds that a run spent on one thing."""

    name: str
    seconds: float


def text(value: Any, kind: Kind) -> str:
    """A cell as displayed: shares as percentages, gains in percentage points."""
    if value is None or value == "":
        return NOTHING
    if kind == "share":
        return f"{100 * value:.1f}%"
    if kind == "points":
        return points(value)
    if kind == "interval":
        return f"{100 * value[0]:.1f}{NOTHING}{100 * value[1]:.1f}%"
    if kind == "span":
        return f"{points(value[0])} to {points(value[1])}"
    if kind == "p":
        return "<0.001" if value < 0.001 else f"{value:.3f}"
    if kind == "count":
        return f"{value:,.0f}"
    if kind == "seconds":
        return f"{value:,.2f}" if value < 10 else f"{value:,.1f}"
    return str(value)


def points(share: float) -> str:
    """A change in percentage points, with its sign."""
    return f"{round(100 * share, 1) + 0.0:+.1f}".replace("-", "\u2212")


def markdown(table: Table) -> str:
    """The table in GitHub's Markdown, numbers aligned right."""
    rule = ["---" if column.kind == "text" else "---:" for column in table.columns]
    body = [
        [text(cell, column.kind) for cell, column in zip(row, table.columns, strict=True)]
        for row in table.rows
    ]
    lines = [[column.name for column in table.columns], rule, *body]
    return "".join(f"| {' | '.join(_one_line(cell) for cell in line)} |\n" for line in lines)


def comma_separated(table: Table) -> str:
    """The table as CSV, unrounded; an interval becomes two columns, shares and points stay
    fractions."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    names: list[str] = []
    for column in table.columns:
        pair = [f"{column.name}, {end}" for end in ("low", "high")]
        names += pair if column.kind in _PAIRS else [column.name]
    writer.writerow(names)
    for row in table.rows:
        cells: list[Any] = []
        for cell, column in zip(row, table.columns, strict=True):
            cells += (cell or (None, None)) if column.kind in _PAIRS else [cell]
        writer.writerow("" if cell is None else cell for cell in cells)
    return buffer.getvalue()


def latex(table: Table) -> str:
    """The table in LaTeX, for a paper: `booktabs`, numbers aligned right."""
    letters = "".join("l" if column.kind == "text" else "r" for column in table.columns)
    cells = [
        [text(cell, column.kind) for cell, column in zip(row, table.columns, strict=True)]
        for row in table.rows
    ]
    head, *body = (
        " & ".join(map(_tex, line)) + r" \\"
        for line in ([column.name for column in table.columns], *cells)
    )
    lines = [rf"\begin{{tabular}}{{{letters}}}", r"\toprule", head, r"\midrule", *body]
    return "\n".join([f"% {table.caption}", *lines, r"\bottomrule", r"\end{tabular}", ""])


def _tex(cell: str) -> str:
    """A cell with its characters escaped for TeX."""
    signs = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    signs |= {"\u2212": "$-$", NOTHING: "--", "<": "$<$", ">": "$>$"}
    signs |= {character: f"\\{character}" for character in "&%$#_{}"}
    return "".join(signs.get(character, character) for character in " ".join(cell.split()))


def comparison_table(comparison: Comparison) -> Table:
    """Methods compared with the model they started from, by language: means over seeds."""
    scores = comparison.scores
    languages = list(dict.fromkeys(score.language for score in scores))
    methods = list(dict.fromkeys(score.method for score in scores))
    rows = []
    for language in languages:
        base = mean_of_known(
            [s.average for s in scores if (s.language, s.method) == (language, BASE)]
        )
        for method in methods:
            found = [s for s in scores if (s.language, s.method) == (language, method)]
            if found:
                rows.append((language_name(language), *_over_seeds(method, found, base)))
    if len(languages) > 1:
        for method in methods:
            found = [s for s in scores if s.method == method]
            rows.append(("All languages", *_over_seeds(method, found, _base_of(found, scores))))
    first = scores[0] if scores else None
    return Table(
        caption="Accuracy by language and method: means over seeds",
        columns=(
            Column("Language"),
            Column("Method"),
            Column("Seeds", "count"),
            Column(first.metric if first else "avg@k", "share"),
            Column("95% interval", "interval"),
            Column("Gain over base, points", "points"),
            Column("Range over seeds", "interval"),
            Column(first.passing if first else "pass@k", "share"),
            Column("Format rate", "share"),
            Column("Generated tokens", "count"),
        ),
        rows=tuple(rows),
        headings=2,
    )


def runs_table(runs: Sequence[Run]) -> Table:
    """Every score of every run, or a line without numbers for a run that has none yet."""
    rows = []
    for run in runs:
        seed = None if run.seed is None else str(run.seed)
        for score in run.scores:
            rows.append(
                (
                    run.label,
                    score.method,
                    seed,
                    language_name(score.language),
                    f"{score.where} ({score.metric})",
                    score.average,
                    score.interval,
                    score.solved,
                    score.format_rate,
                    run.generated_tokens
                    if score.generated_tokens is None
                    else score.generated_tokens,
                )
            )
        if not run.scores:
            name = language_name(run.language)
            nothing = (None,) * 4
            rows.append(
                (run.label, run.method, seed, name, "not yet", *nothing, run.generated_tokens)
            )
    return Table(
        caption="Scores of each run",
        columns=(
            Column("Run"),
            Column("Method"),
            Column("Seed"),
            Column("Language"),
            Column("Measured on"),
            Column("avg@k", "share"),
            Column("95% interval", "interval"),
            Column("pass@k", "share"),
            Column("Format rate", "share"),
            Column("Generated tokens", "count"),
        ),
        rows=tuple(rows),
    )


def published_table(runs: Sequence[Run]) -> Table | None:
    """Published numbers for the runs' recipes, next to the runs' own scores on the same suite, at
    the same budget and k. None if no recipe has a published number."""
    rows = [
        (
            run.label,
            " ".join(str(about[key]) for key in ("suite", "split", "metric") if about.get(key)),
            language_name(str(about["language"])) if about.get("language") else "mean",
            own.budget if own else number(about, "budget"),
            (number(about, "value") or 0.0) / 100,
            own.value if own else None,
            str(about.get("where", "")),
        )
        for run in runs
        for about in map(mapping, sequence(run.recipe.get("published")))
        for own in ours(about, run.results) or [None]
    ]
    columns = (
        *(Column("Run"), Column("Measure"), Column("Language"), Column("Budget", "count")),
        *(Column("Published", "share"), Column("Ours", "share"), Column("Where it is printed")),
    )
    return Table("Published numbers of these settings", columns, tuple(rows)) if rows else None


def rows_table(runs: Sequence[Run]) -> Table | None:
    """What became of the rows of the runs' data. None if no run has counted them."""
    counted = [(run, run.account) for run in runs if run.account]
    rows = [
        (
            run.label,
            number(account, "rows"),
            sum(finite(count) or 0 for count in mapping(account.get("kept")).values()),
            number(account, "dev"),
            "; ".join(
                f"{drop.get('count')}: {drop.get('reason')}"
                for drop in map(mapping, sequence(account.get("dropped")))
            ),
        )
        for run, account in counted
    ]
    columns = (
        *(Column("Run"), Column("Rows read", "count"), Column("Problems trained on", "count")),
        *(Column("Held out as dev", "count"), Column("Left out")),
    )
    return Table("Rows of the training data", columns, tuple(rows)) if rows else None


def time_spent(run: Run) -> tuple[Span, ...]:
    """Seconds of the whole run by activity, in a fixed order; activities without times are left
    out."""
    totals: dict[str, float] = {}
    for row in run.train:
        for name in row:
            if name.startswith("time/"):
                totals[name[5:]] = totals.get(name[5:], 0.0) + (number(row, name) or 0.0)
    order = ["rollout", "teacher", "student", "loss", "evaluate"]
    names = [*(n for n in order if n in totals), *sorted(set(totals) - set(order))]
    return tuple(Span(name, totals[name]) for name in names)


def provenance(runs: Sequence[Run]) -> tuple[dict[str, str], Table | None]:
    """What all runs share, and a table of what differs between them: facts, and keys of their
    recipes."""
    facts = [dict(_facts(run)) for run in runs]
    shared = {
        name: value for name, value in facts[0].items() if all(f.get(name) == value for f in facts)
    }
    asked = [dict(_asked(run)) for run in runs]
    known = [told | own for told, own in zip(facts, asked, strict=True)]
    differing = [
        name
        for name in dict.fromkeys(name for own in known for name in own)
        if any(own.get(name) != known[0].get(name) for own in known)
    ]
    if not differing:
        return shared, None
    return shared, Table(
        caption="What differs between the runs",
        columns=(Column("Key"), *(Column(run.label) for run in runs)),
        rows=tuple((name, *(own.get(name) for own in known)) for name in differing),
    )


def _asked(run: Run) -> Iterator[tuple[str, str]]:
    """Yields every key of a run's recipe, except those among the facts and published numbers."""
    for name, value in flat({k: v for k, v in run.recipe.items() if k != "published"}).items():
        if name not in ("model", "model.name", "method", "method.name", "train.seed"):
            yield name, "null" if value is None else str(value)


def _facts(run: Run) -> Iterator[tuple[str, str]]:
    """Versions, seed, commit and hardware, as far as the run has recorded them."""
    environment = run.environment
    if run.model:
        yield "model", run.model
    if run.method:
        yield "method", run.method
    if run.seed is not None:
        yield "seed", str(run.seed)
    git = mapping(environment.get("git"))
    if git.get("commit"):
        changes = " with uncommitted changes" if git.get("dirty") else ""
        yield "git commit", f"{git['commit']}{changes}"
    for name in ("python", "platform", "cpu", "threads"):
        if environment.get(name) not in (None, ""):
            yield name, str(environment[name])
    if environment.get("gpus"):
        yield "gpus", ", ".join(map(str, sequence(environment["gpus"])))
    for package, version in mapping(environment.get("versions")).items():
        yield str(package), str(version)


def _over_seeds(method: str, found: Sequence[Score], base: float | None) -> tuple[Any, ...]:
    """One row of means over seeds."""
    average = mean_of_known([score.average for score in found])
    by_seed = _by_seed(found)
    gain = None if method == BASE or base is None or average is None else average - base
    return (
        method,
        len(by_seed) or None,
        average,
        interval(found),
        gain,
        (min(by_seed.values()), max(by_seed.values())) if len(by_seed) > 1 else None,
        mean_of_known([score.solved for score in found]),
        mean_of_known([score.format_rate for score in found]),
        mean_of_known([score.generated_tokens for score in found]),
    )


def interval(found: Sequence[Score]) -> Interval | None:
    """The 95 % interval of the mean of scores, over the seeds and problems of each language; None
    if several scores are averaged and their values on single problems are not known."""
    if len(found) == 1:
        return found[0].interval
    languages: dict[str, list[tuple[float, ...]]] = {}
    for score in found:
        languages.setdefault(score.language, []).append(score.scores)
    strata = list(languages.values())
    known = all(len({len(s) for s in seeds}) == 1 and seeds[0] for seeds in strata)
    return estimate(strata).interval if known and strata else None


def _by_seed(found: Iterable[Score]) -> Mapping[int | None, float]:
    averages: dict[int | None, list[float]] = {}
    for score in found:
        if score.average is not None:
            averages.setdefault(score.seed, []).append(score.average)
    return {seed: sum(values) / len(values) for seed, values in averages.items()}


def _base_of(found: Sequence[Score], scores: Sequence[Score]) -> float | None:
    """The base's mean over the languages of these scores."""
    languages = {score.language for score in found}
    return mean_of_known(
        [s.average for s in scores if s.method == BASE and s.language in languages]
    )


def _one_line(cell: str) -> str:
    return " ".join(cell.replace("\\", "\\\\").replace("|", "\\|").split())
