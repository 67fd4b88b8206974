"""The claims as a page for people, and as JSON beside it, both from a stored run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from opsd.runs.environment import environment
from opsd.runs.files import write_atomically


def write(rows: Sequence[Mapping[str, Any]], page: Path) -> None:
    """Writes `page` and, beside it, the rows as `.json`."""
    about = environment()
    verdicts = [row["verdict"] for row in rows]
    counted = [f"{verdicts.count(v)} {v}" for v in dict.fromkeys(verdicts)]
    made = jinja2.Environment(
        trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined, autoescape=False
    )
    made.filters["thousands"] = "{:,}".format
    file = resources.files("opsd.experiments") / "claims_page.md.jinja"
    template = made.from_string(file.read_text("utf-8"))
    text = template.render(
        rows=[{"note": "", **row} for row in rows],
        page=page.name,
        counts=f"{len(rows)} claims: {', '.join(counted)}",
        seeds=_seeds([row["seeds"] for row in rows]),
        number=_number,
        series=_series,
        versions=", ".join(f"{k} {about['versions'][k]}" for k in ("opsd", "torch")),
        cores=about["cpu_count"],
    )
    write_atomically(page, text.rstrip("\n") + "\n")
    write_atomically(page.with_suffix(".json"), json.dumps(rows, indent=1, ensure_ascii=False))


def _seeds(counts: Sequence[int]) -> str:
    few, many = min(counts), max(counts)
    return f"{few} seeds" if few == many else f"{few} to {many} seeds"


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) >= 1 else f"{value:.3f}"


def _series(values: Sequence[float]) -> str:
    return " / ".join(map(_number, values))
