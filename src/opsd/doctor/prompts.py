"""The check of a recipe's data, including its prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from opsd.doctor.check import check, worst_first
from opsd.doctor.findings import Finding
from opsd.preview.rows import preview
from opsd.recipe.schema import Recipe

_LONG, _GOLD = "too long:", "gold answers"
"""Beginnings of remarks: on rows that cannot be trained on, and on gold answers, which `check` has
examined in all rows."""


def check_recipe(recipe: Recipe, folder: Path | None = None) -> dict[str, Any]:
    """The check of a recipe's data, with its model's tokenizer, and of the prompts made from it."""
    content = check(recipe.data, recipe.model.name, folder)
    scan = preview(recipe, rows=0)["scan"]
    found = [
        Finding(
            f"in the prompts: {note['note']}",
            "error" if note["note"].startswith(_LONG) else "warning",
            "`opsd preview` shows them token by token",
            scan["rows"],
            note["rows"],
        )
        for note in scan["notes"]
        if not note["note"].startswith(_GOLD)
    ]
    if scan["broken"]["rows"]:
        told = f"give no prompt: {scan['broken']['first']}"
        mend = "map the columns that the prompt needs, or leave these rows out"
        found.append(Finding(told, "error", mend, scan["rows"], scan["broken"]["rows"]))
    found += [Finding(**finding) for finding in content["findings"]]
    return content | {"prompts": scan["lengths"], "findings": worst_first(found)}
