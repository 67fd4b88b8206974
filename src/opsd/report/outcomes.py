"""Did training help? Compares a run's model with the one that it started from, by the evaluations
in the run's folder: in which languages it is better, by how much, how certainly, and whether in
form or in reasoning."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from opsd.console import log
from opsd.grade.intervals import FEWEST
from opsd.report.figures import Panel, lines, scatter
from opsd.report.runs import Row, Run, language_name
from opsd.report.series import Curve
from opsd.report.tables import Column, Table, points
from opsd.runs.json_files import Damaged, number
from opsd.suites.labels import UPSTREAM
from opsd.types import UserError

LEVEL = 0.05
_ALL = "all"


@dataclass(frozen=True)
class Outcome:
    """One model compared with its base on one suite. `rows` are those of `opsd compare`, with the
    upstream labels; `results` those of both models' `result.json`."""

    run: str
    model: str
    base: str
    suite: str
    rows: tuple[Row, ...]
    results: tuple[Row, ...]
    # Languages that are included for reference, but not in any mean.
    aside: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """A short name of the trained model: its folder's name, or its run's if that says more."""
        return _called(self.model, self.run)

    @property
    def base_name(self) -> str:
        return _called(self.base)

    @property
    def languages(self) -> list[str]:
        """The languages that the means include."""
        spoken = dict.fromkeys(row["language"] for row in self.at())
        pooled = [code for code in spoken if code != _ALL and code not in self.aside]
        return pooled or [code for code in spoken if code != _ALL]

    @property
    def budget(self) -> int:
        """The largest budget, in tokens."""
        return max(row["budget"] for row in self.rows)

    def at(self, metric: str = "avg@k", budget: int | None = None) -> list[Row]:
        """Comparisons by language, and of all languages if there are several, within one budget."""
        wanted = (metric, budget or self.budget)
        return [row for row in self.rows if (row["metric"], row["budget"]) == wanted]

    @property
    def pooled(self) -> Row:
        """The comparison of the mean over languages, or of the only language."""
        rows = self.at()
        return next((row for row in rows if row["language"] == _ALL), rows[0])

    def of(self, model: str, budget: int | None = None, languages: Sequence[str] = ()) -> list[Row]:
        """A model's results in some languages, by default those that the means include."""
        spoken = languages or self.languages
        return [
            row
            for row in self.results
            if (row["model"], row["budget"]) == (model, budget or self.budget)
            and row["language"] in spoken
        ]


def _called(model: str, run: str = "") -> str:
    """A short name for a model: its folder's name, or the run's for a folder in a run; a name on
    the Hub stays."""
    path = Path(model)
    if not (path.is_absolute() or path.exists() or model.startswith(".")):
        return model
    if path.name == "model" and run:
        return run
    return f"{run}, {path.name}" if run and path.name.startswith("checkpoint-") else path.name


def outcomes(runs: Sequence[Run]) -> list[Outcome]:
    """One outcome per run, trained model and suite, if the run's folder contains samples of the
    model and of its base."""
    return [outcome for run in runs for outcome in _of_run(run)]


def _of_run(run: Run) -> Iterator[Outcome]:
    from opsd.evaluate.compare import compared
    from opsd.evaluate.samples import evaluations
    from opsd.suites.loading import SUITES

    found: dict[tuple[str, str], tuple[Path, Row]] = {}
    for place, claim in evaluations(run.path / "eval"):
        found[claim["model"], place.name] = place, claim
    for (model, suite), (place, claim) in found.items():
        if model == run.model or (run.model, suite) not in found:
            continue
        base, _ = found[run.model, suite]
        try:
            told = compared([base, place], common=True)
        except Damaged:
            raise
        except UserError as error:
            log(f"{run.label}: {model} is not compared in the report: {error}")
            continue
        rows = tuple(row for row in told["comparisons"] if row["labels"] == UPSTREAM)
        results = tuple(
            row
            for row in run.evaluations
            if row.get("suite") == suite and row.get("labels", UPSTREAM) == UPSTREAM
        )
        aside = SUITES[suite].aside if suite in SUITES else claim.get("aside") or ()
        yield Outcome(run.label, model, run.model, suite, rows, results, tuple(aside))


def sentences(outcome: Outcome) -> Iterator[str]:
    """The outcome in words: by how much, how certain, where, and by what."""
    (_, lead), *others = told(outcome)
    yield f"{outcome.name} on {outcome.suite}: {lead} {sureness(outcome)}"
    yield from (text for _, text in others)


def told(outcome: Outcome) -> Iterator[tuple[str, str]]:
    """Yields sentences, each with the question that it answers; the first says by how much."""
    row = outcome.pooled
    languages = [own for own in outcome.at() if own["language"] in outcome.languages]
    mean = f", as a mean over {len(languages)} languages" if len(languages) > 1 else ""
    yield "By how much", f"{lead(row['baseline'], row['value'], row['difference'])}{mean}."
    if len(languages) > 1:
        sure = [own for own in languages if own["p_adjusted"] <= LEVEL]
        better, worse = (
            [language_name(own["language"]) for own in sure if sign * own["difference"] > 0]
            for sign in (1, -1)
        )
        yield (
            "Where",
            f"Corrected for {len(languages)} languages: better in {len(better)}{_named(better)},"
            f" worse in {len(worse)}{_named(worse)}, not distinguishable from chance in"
            f" {len(languages) - len(sure)}.",
        )
    parts = by_form_and_reasoning(outcome)
    # If the results are of other samples or problems than the comparison, parts do not add up.
    if parts is not None and abs(sum(parts) - row["difference"]) < 1e-6:
        yield (
            "By what",
            f"Of the change, {points(parts[0])} points come from how often an answer is stated,"
            f" {points(parts[1])} from how often a stated one is right.",
        )


def lead(before: float, after: float, difference: float) -> str:
    """By how much, as the beginning of a sentence."""
    change = f"{points(difference)} points"
    return f"{after:.1%} of attempts are right after training, {before:.1%} before: {change}"


def sureness(outcome: Outcome) -> str:
    """How certain the outcome is, and which differences this many problems cannot show."""
    row = outcome.pooled
    low, high = row["interval"]
    return (
        f"The 95% interval is {points(low)} to {points(high)} points ({_p(row['p'])}), over"
        f" {row['n_problems']} problems within {outcome.budget:,} tokens."
        f" {unseen(row['n_problems'], low, high)}"
    )


def unseen(problems: int, low: float, high: float) -> str:
    """The size below which a difference could not be told from chance: half the interval."""
    if problems < FEWEST:
        return f"That is too few problems to conclude anything: {problems}."
    return f"Differences below about {50 * (high - low):.2g} points cannot be detected."


def by_form_and_reasoning(outcome: Outcome) -> tuple[float, float] | None:
    """The change in avg@k as a sum of two parts: the change in the format rate, at the mean
    accuracy of stated answers; and the change in that accuracy, at the mean format rate. The sum is
    exact, since avg@k is the product of both. None if no answer is stated, or nothing is known."""
    changes = []
    for base in outcome.of(outcome.base):
        for model in outcome.of(outcome.model):
            if base["language"] == model["language"]:
                rates = [number(row, "format_rate") for row in (base, model)]
                right = [number(row, "accuracy_given_format") for row in (base, model)]
                if None in rates or None in right:
                    return None
                (f0, f1), (a0, a1) = rates, right
                changes.append(((f1 - f0) * (a0 + a1) / 2, (a1 - a0) * (f0 + f1) / 2))
    if not changes:
        return None
    form, reasoning = np.mean(changes, axis=0)
    return float(form), float(reasoning)


def table(outcome: Outcome) -> Table:
    """A table with a row for every language, and for all of them, at the largest budget."""
    return Table(
        caption=f"{outcome.name} against {outcome.base_name} on {outcome.suite},"
        f" {outcome.budget:,} tokens",
        columns=(
            Column("Language"),
            Column("Problems", "count"),
            Column("Base", "share"),
            Column("Trained", "share"),
            Column("Change, points", "points"),
            Column("95% interval", "span"),
            Column("p", "p"),
            Column("p, adjusted", "p"),
            Column("Won-lost-tied"),
            Column("Format, base", "share"),
            Column("Format, trained", "share"),
        ),
        rows=tuple(_row(outcome, row) for row in outcome.at()),
    )


def _row(outcome: Outcome, row: Row) -> tuple[Any, ...]:
    code = row["language"]
    spoken = () if code == _ALL else (code,)
    formats = [
        _mean_of(outcome.of(model, languages=spoken), "format_rate")
        for model in (outcome.base, outcome.model)
    ]
    return (
        "All languages" if code == _ALL else language_name(code),
        row["n_problems"],
        *(row["baseline"], row["value"], row["difference"], tuple(row["interval"])),
        *(row["p"], row["p_adjusted"], f"{row['wins']}-{row['losses']}-{row['ties']}"),
        *formats,
    )


def panels(outcome: Outcome) -> list[Panel]:
    """Panels of accuracy against the test-time budget, and against the number of tries, as means
    over languages; and of accuracy against format rate, with a point per language."""
    models = {outcome.base: outcome.base_name, outcome.model: outcome.name}
    budgets = sorted({row["budget"] for row in outcome.rows})
    scaling = [
        _curve(named, i, budgets, [_mean_of(outcome.of(model, b), "avg@k") for b in budgets])
        for i, (model, named) in enumerate(models.items())
    ]
    tries = [_tries(outcome, m, n, i) for i, (m, n) in enumerate(models.items())]
    clouds = [_cloud(outcome, m, n, i) for i, (m, n) in enumerate(models.items())]
    look = {"y": "accuracy", "share": True}
    return [
        *(lines("Test-time budget", scaling, x="tokens", **look) if len(budgets) > 1 else []),
        *lines("pass@k", tries, x="k", **look),
        *scatter("Format and accuracy, by language", clouds, x="format rate", y="accuracy"),
    ]


def _tries(outcome: Outcome, model: str, named: str, style: int) -> Curve | None:
    curves = [row.get("pass_curve") for row in outcome.of(model)]
    if not curves or not all(curves):
        return None
    most = min(map(len, curves))
    means = np.mean([curve[:most] for curve in curves], axis=0)
    return _curve(named, style, range(1, most + 1), list(means)) if most > 1 else None


def _cloud(outcome: Outcome, model: str, named: str, style: int) -> Curve | None:
    rows = outcome.of(model)
    formats, scores = ([row["format_rate"] for row in rows], [row["avg@k"] for row in rows])
    return _curve(named, style, formats, scores) if len(rows) > 1 else None


def _curve(label: str, style: int, x: Sequence[float], y: Sequence[float | None]) -> Curve | None:
    points = [(float(a), float(b)) for a, b in zip(x, y, strict=True) if b is not None]
    return Curve(label, style, *zip(*points, strict=True), marked=True) if points else None


def _mean_of(rows: Sequence[Row], name: str) -> float | None:
    values = [row[name] for row in rows if row.get(name) is not None]
    return sum(values) / len(values) if values else None


def _named(names: Sequence[str]) -> str:
    return f" ({', '.join(names)})" if names else ""


def _p(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"
