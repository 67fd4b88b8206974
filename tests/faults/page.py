"""`docs/reliability.md`, from the added results of the runner's calls."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from tests.faults.tally import FAILURES, Tally

from opsd.runs.files import write_atomically


def write(tally: Tally, path: Path) -> None:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    text = environment.get_template("page.md.jinja").render(
        tried=f"{tally.tried:,}",
        minutes=round(tally.seconds / 60),
        failures=tally.failures,
        headings=["kind", "tried", *FAILURES],
        rows=[[f"{x:,}" if isinstance(x, int) else x for x in row] for row in tally.rows()],
    )
    write_atomically(path, text)
