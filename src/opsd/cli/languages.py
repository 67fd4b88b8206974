"""Lists the languages, as text or as data, and checks language files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from opsd.languages.registry import check, codes, language, remarks, resolve
from opsd.miniature.lexicon import LANGUAGES
from opsd.types import UserError

AFRIMGSM = (
    *("amh", "ewe", "hau", "ibo", "kin", "lin", "lug", "orm", "sna"),
    *("sot", "swa", "twi", "vai", "wol", "xho", "yor", "zul"),
)
POLYMATH = (
    *("arb", "ben", "deu", "eng", "fra", "ind", "ita", "jpn", "kor"),
    *("por", "rus", "spa", "swa", "tel", "tha", "vie", "zho", "zsm"),
)
_USES = {"AfriMGSM": AFRIMGSM, "PolyMath": POLYMATH, "built-in world": LANGUAGES}


def listing() -> list[dict[str, Any]]:
    """Every language: how it is written, whether a speaker has read its texts, where it is used."""
    keys = {"code", "name", "aliases", "script", "direction", "decimal_mark", "verified", "note"}
    return [
        {
            **language(code).model_dump(mode="json", include=keys),
            "used_in": [place for place, used in _USES.items() if code in used],
        }
        for code in codes()
    ]


def show() -> None:
    """Prints the table of languages, and the notes on them."""
    console, rows = Console(), listing()
    table = Table("code", Column("name", no_wrap=True), "script", "decimal", "verified", "used in")
    for row in rows:
        table.add_row(
            row["code"],
            row["name"],
            f"{row['script']} {row['direction']}",
            row["decimal_mark"],
            "yes" if row["verified"] else "no",
            ", ".join(row["used_in"]),
        )
    console.print(table)
    for row in rows:
        if row["note"]:
            console.print(f"{row['code']}: {row['note']}", markup=False, highlight=False)


def check_file(path: Path) -> None:
    """Prints what is wrong with a language file. Raises UserError if anything is."""
    found = check(path)
    for line in found or remarks(path):
        print(line)
    if found:
        faults = "1 fault" if len(found) == 1 else f"{len(found)} faults"
        raise UserError(f"{path}: {faults}; fix what is listed")
    known = language(resolve(str(path)))
    print(f"{path}: {known.name} ({known.code}) can be used")
