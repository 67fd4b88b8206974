"""A report as one HTML file that loads nothing: no network, no scripts, light, dark and print.

Whatever comes from a run (names, prompts, completions) is untrusted text. Templates escape it, and
the page's content security policy forbids scripts and loads in case an escape is missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from markupsafe import Markup

from opsd.grade.intervals import FEWEST
from opsd.pages.html import render
from opsd.report import outcomes, series, tables
from opsd.report.figures import placed, swatch
from opsd.report.rollouts import LEVELS, Shown, samples
from opsd.report.runs import Comparison, Evidence, Row, Run, language_name, listed, load_runs
from opsd.report.sections import bars, sections
from opsd.report.verdicts import common_scale, verdicts
from opsd.runs.files import write_atomically
from opsd.runs.json_files import number

PROBLEMS_PER_LANGUAGE = 5
"""How many problems of a comparison are shown with completions, in each language."""


@dataclass(frozen=True)
class Answers:
    """One problem of a comparison, and each method's completion."""

    language: str
    number: int
    prompt: str
    answer: str
    completions: tuple[Row, ...]


def write_report(runs: Sequence[Path], output: Path) -> Path:
    """Writes one HTML file about these run folders, and returns its path.

    A folder that contains run folders, such as a quickstart's, stands for all of them. Raises
    UserError for a folder that is not a run, or has not logged anything.
    """
    evidence = load_runs(runs)
    output = Path(output)
    write_atomically(output, page(evidence))
    return output


def page(evidence: Evidence) -> str:
    """The report as HTML."""
    runs = evidence.runs
    figures = count(1)
    shared, differing = tables.provenance(runs)
    found = outcomes.outcomes(runs)
    answered = verdicts(evidence, found)
    filters = {
        "swatch": swatch,
        "figure": lambda svg: Markup(placed(svg, next(figures))),
        "cell": tables.text,
        "language": language_name,
    }
    return render(
        Path(__file__).parent,
        "report",
        filters=filters,
        figures=True,
        title=title(evidence),
        summary=list(summary(evidence)),
        **_scores(evidence),
        sections=sections(runs),
        bars=bars(runs),
        answers=[a for c in evidence.comparisons for a in answers(c)],
        shown=list(_shown(runs)),
        verdicts=answered,
        scale=common_scale(answered),
        outcomes=[(outcomes.table(x), outcomes.panels(x)) for x in found],
        levels=LEVELS,
        shared=shared,
        differing=differing,
        recipes=[(run.label, run.recipe_text) for run in runs if run.recipe_text],
    )


def _scores(evidence: Evidence) -> dict[str, Any]:
    """Tables at the head of the page, and a folded one with each run's scores: a comparison already
    summarizes its own runs."""
    compared = [run for run in evidence.runs if run.compared] if evidence.comparisons else []
    others = [run for run in evidence.runs if run not in compared]
    headline = [tables.comparison_table(comparison) for comparison in evidence.comparisons]
    scored = [run for run in compared if run.scores]
    return {
        "headline": [*headline, *([tables.runs_table(others)] if others else [])],
        "published": tables.published_table(evidence.runs),
        "data_rows": tables.rows_table(evidence.runs),
        "each_run": tables.runs_table(scored) if scored else None,
    }


def title(evidence: Evidence) -> str:
    """What the report is about, in a few words."""
    methods = listed([m for m in dict.fromkeys(run.method for run in evidence.runs) if m])
    if evidence.comparisons:
        return f"{methods or 'Training'} against the base model"
    if len(evidence.runs) == 1:
        label = evidence.runs[0].label
        return f"{label}: {methods}" if methods else label
    return f"{len(evidence.runs)} runs: {methods}" if methods else f"{len(evidence.runs)} runs"


def summary(evidence: Evidence) -> Iterator[str]:
    """What ran, in sentences: a single run in detail, several runs by what they have in common."""
    runs = evidence.runs
    if len(runs) == 1:
        yield from _about(runs[0])
    else:
        yield from _about_all(runs)
    yield from filter(None, map(series.not_finite, runs))
    for comparison in evidence.comparisons:
        yield from _outcome(comparison)


def answers(comparison: Comparison) -> list[Answers]:
    """The first problems of each language, in the order of the file: none is chosen by result."""
    grouped: dict[tuple[str, str], list[Row]] = {}
    for row in comparison.samples:
        key = (str(row.get("language", "")), str(row.get("problem", "")))
        grouped.setdefault(key, []).append(row)
    taken: dict[str, int] = {}
    made = []
    for (language, _), rows in grouped.items():
        taken[language] = taken.get(language, 0) + 1
        if taken[language] > PROBLEMS_PER_LANGUAGE:
            continue
        prompt, answer = str(rows[0].get("prompt", "")), str(rows[0].get("answer", ""))
        made.append(Answers(language, taken[language], prompt, answer, tuple(rows)))
    return made


def _shown(runs: Sequence[Run]) -> Iterator[Shown]:
    """Yields samples of each run; of runs that differ only in their seed, only the first one's."""
    seen: set[tuple[str, str]] = set()
    for run in runs:
        variant = (run.language, run.method) if run.compared else ("", run.label)
        if variant in seen:
            continue
        found = samples(run)
        if found is not None:
            seen.add(variant)
            yield found


def _about(run: Run) -> Iterator[str]:
    trained = f"This run trains {run.model or 'a model'}"
    method = f" with {run.method}" if run.method else ""
    data = run.recipe.get("data")
    source = data.get("source") if isinstance(data, dict) else data
    problems = f" on {source}" if isinstance(source, str) and source else ""
    yield f"{trained}{method}{problems}{_spoken([run])}."
    if run.unfinished:
        done = f"It has done {run.steps:,} of {run.planned_steps:,} optimizer steps: it is"
        yield f"{done} still running, or was stopped."
    else:
        yield f"It has done {run.steps:,} optimizer step{'s' if run.steps != 1 else ''}."
    if run.generated_tokens:
        seconds = sum(span.seconds for span in tables.time_spent(run))
        took = f", and took {duration(seconds)}" if seconds else ""
        yield f"For training it generated {run.generated_tokens:,} tokens{took}."
    scores = [s for s in (number(row, "eval_avg@k") for row in run.dev) if s is not None]
    if len(scores) > 1 and scores[0] != scores[-1]:
        yield f"Accuracy on the dev split went from {scores[0]:.1%} to {scores[-1]:.1%}."
    elif scores:
        yield f"Accuracy on the dev split is {scores[0]:.1%}."


def _about_all(runs: Sequence[Run]) -> Iterator[str]:
    models = listed([m for m in dict.fromkeys(run.model for run in runs) if m])
    methods = listed([m for m in dict.fromkeys(run.method for run in runs) if m])
    start = f", starting from {models}" if models else ""
    of = f" of {methods}" if methods else ""
    yield f"{len(runs)} training runs{of}{start}{_spoken(runs)}."
    steps = [run.steps for run in runs]
    tokens = [run.generated_tokens for run in runs if run.generated_tokens]
    yield f"They have done {_between(steps)} optimizer steps each."
    if tokens:
        yield f"For training each generated {_between(tokens)} tokens."
    unfinished = [run.label for run in runs if run.unfinished]
    if unfinished:
        verb = "is" if len(unfinished) == 1 else "are"
        yield f"{listed(unfinished)} {verb} still running, or stopped early."


def _outcome(comparison: Comparison) -> Iterator[str]:
    means: dict[str, list[float]] = {}
    for score in comparison.scores:
        if score.average is not None:
            means.setdefault(score.method, []).append(score.average)
    several = len({score.language for score in comparison.scores}) > 1
    parts = [
        f"{sum(values) / len(values):.1%} {'before' if method == tables.BASE else 'after'}"
        f" {'training' if method == tables.BASE else method}"
        for method, values in means.items()
    ]
    if parts:
        yield f"Mean accuracy{' over the languages' if several else ''}: {listed(parts)}."
    problems = [len(score.scores) for score in comparison.scores if score.scores]
    if problems and min(problems) < FEWEST:
        yield f"Too few problems to tell methods apart: {min(problems)} in a language."
    if comparison.seconds:
        yield f"In total, this took {duration(comparison.seconds)}."


def duration(seconds: float) -> str:
    """`2 h 5 min`, `9 min 24 s`, `40 s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{f'{minutes} min ' if minutes else ''}{rest} s"


def _spoken(runs: Sequence[Run]) -> str:
    """` in Swahili and Yoruba`; empty if no run names its language."""
    found = [code for run in runs for code in run.language.split(", ") if code]
    names = [language_name(code) for code in dict.fromkeys(found)]
    return f" in {listed(names)}" if names else ""


def _between(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
