"""Lists the catalogue, as text or as data. Needs no transformers."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import yaml
from pydantic import TypeAdapter
from rich.console import Console
from rich.table import Column, Table

from opsd.cli.recipes import named
from opsd.methods import FUNCTIONS, Method, catalogue
from opsd.methods.pseudocode import pseudocode
from opsd.methods.signals import loss_terms
from opsd.objective.divergences import formula_of
from opsd.recipe.files import shipped

_METHOD = TypeAdapter(Method)
_PARTS = ("source", "student", "authors", "signal", "reuse")


def listing(name: str | None = None) -> list[dict[str, Any]]:
    """Name, paper, parts and recipes of every method, or of one."""
    rows, recipes = [], _recipes()
    for key, method in catalogue().items():
        if name in (None, key):
            parts = _METHOD.dump_python(method, mode="json")
            rows.append(
                {
                    "name": key,
                    "paper": method.paper,
                    **{key: parts[key] for key in _PARTS},
                    "recipes": recipes.get(key, []),
                }
            )
    return rows


def show(name: str | None = None) -> None:
    """Prints the table of methods, or all about one of them."""
    console = Console()
    if name is not None:
        (row,) = listing(name)
        console.print(inspect.getdoc(FUNCTIONS[name]), markup=False)
        for coefficient, term in loss_terms(catalogue()[name].signal):
            if term.divergence is not None:
                formula = f"{coefficient:g} x {formula_of(term.divergence)}"
                console.print(f"\nFormula: {formula}", markup=False)
        steps = "\n".join(f"  {line}" for line in pseudocode(catalogue()[name]))
        console.print(f"\nA step:\n{steps}", markup=False, highlight=False, soft_wrap=True)
        parts = yaml.safe_dump({k: row[k] for k in _PARTS}, sort_keys=False)
        console.print(f"\nPaper: {row['paper']}\nRecipes: {_names(row['recipes'])}\n\n{parts}")
        return
    table = Table(Column("method", no_wrap=True), "what it is", "paper")
    for key, method in catalogue().items():
        first = (inspect.getdoc(FUNCTIONS[key]) or "").splitlines()[0]
        table.add_row(key, first.partition(": ")[2], method.paper)
    console.print(table)


def _names(recipes: Sequence[str]) -> str:
    return ", ".join(recipes) or "none"


def _recipes() -> dict[str, list[str]]:
    """The shipped recipes of every method."""
    found: dict[str, list[str]] = {}
    for stem, path in shipped().items():
        found.setdefault(named("method", path), []).append(stem)
    return found
