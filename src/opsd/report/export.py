"""A report's tables and figures as separate files, for papers and spreadsheets."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from opsd.console import log
from opsd.report import outcomes, tables
from opsd.report.figures import Panel, save
from opsd.report.outcomes import Outcome
from opsd.report.runs import Evidence, load_runs
from opsd.report.sections import sections
from opsd.report.tables import Table
from opsd.runs.files import write_atomically

FORMS = {".csv": tables.comma_separated, ".md": tables.markdown, ".tex": tables.latex}


def export(runs: Sequence[Path], output: Path) -> list[Path]:
    """Writes every table (CSV, Markdown, LaTeX) and figure (SVG, PNG) of the report into a folder,
    and returns the paths. Raises UserError like `write_report`."""
    evidence = load_runs(runs)
    found = outcomes.outcomes(evidence.runs)
    written = []
    output.mkdir(parents=True, exist_ok=True)
    for name, table in _numbered(_tables(evidence, found)):
        for ending, form in FORMS.items():
            written.append(output / f"table-{name}{ending}")
            write_atomically(written[-1], form(table))
    for name, panel in _numbered(_panels(evidence, found)):
        for ending in (".svg", ".png"):
            written.append(output / f"figure-{name}{ending}")
            save(panel, written[-1])
    log(f"{len(written)} files in {output}")
    return written


def _tables(evidence: Evidence, found: Sequence[Outcome]) -> Iterator[tuple[str, Table]]:
    for outcome in found:
        yield f"outcome {outcome.suite}", outcomes.table(outcome)
    for comparison in evidence.comparisons:
        yield "comparison", tables.comparison_table(comparison)
    yield "runs", tables.runs_table(evidence.runs)
    for name, table in (
        ("published", tables.published_table(evidence.runs)),
        ("rows", tables.rows_table(evidence.runs)),
    ):
        if table is not None:
            yield name, table


def _panels(evidence: Evidence, found: Sequence[Outcome]) -> Iterator[tuple[str, Panel]]:
    for outcome in found:
        for panel in outcomes.panels(outcome):
            if panel.draw is not None:
                yield f"{outcome.suite} {panel.title}", panel
    for section in sections(evidence.runs):
        yield from ((panel.title, panel) for panel in section.panels if panel.draw is not None)


def _numbered(named: Iterator[tuple[str, Table]] | Iterator[tuple[str, Panel]]) -> Iterator:
    """Adds names that are valid on file systems, numbered in the report's order."""
    for i, (name, thing) in enumerate(named, 1):
        plain = re.sub(r"[^a-z0-9]+", "-", name.casefold()).strip("-")[:60]
        yield f"{i:02}-{plain}", thing
