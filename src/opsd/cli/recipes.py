"""Lists the shipped recipes, as text or as data. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Column, Table

from opsd.recipe.files import find, lineage, shipped

# The parser in C, if PyYAML has it, is ten times as fast on seventy files.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@cache
def _read(path: Path) -> dict[str, Any]:
    return yaml.load(path.read_text("utf-8"), _LOADER)


def named(key: str, path: Path) -> str:
    """The name of a recipe's method or model, from its file or one that it extends."""
    values = (keys[key] for _, keys in lineage(path, _read) if key in keys)
    names = (value.get("name") if isinstance(value, Mapping) else value for value in values)
    return str(next(filter(None, names), ""))


def listing(name: str | None = None) -> list[dict[str, Any]]:
    """Name, method, model, file and printed numbers of every shipped recipe, or of one. UserError
    for an unknown name."""
    chosen = shipped() if name is None else {name: find(name)}
    return [
        {
            "name": stem,
            "method": named("method", path),
            "model": named("model", path),
            "file": str(path),
            "published": _read(path).get("published", []),
        }
        for stem, path in chosen.items()
    ]


def show(name: str | None = None) -> None:
    """Prints a line per recipe, or one recipe's file. The column `numbers` says whether a paper
    prints numbers for the setting, or the setting is ours."""
    if name is not None:
        print(find(name).read_text("utf-8"), end="")
        return
    columns = [Column(name, no_wrap=True) for name in ("recipe", "method", "model", "numbers")]
    columns[2].max_width = 19  # with the longest names in the others this gives 80 characters
    table = Table(*columns, box=None, padding=(0, 1, 0, 0))
    for row in listing():
        status = "printed" if row["published"] else "ours"
        table.add_row(row["name"], row["method"], Path(row["model"]).name, status)
    console = Console(markup=False, emoji=False)
    console.print(table)
    console.print("opsd recipes NAME prints one; opsd train NAME runs it", highlight=False)
