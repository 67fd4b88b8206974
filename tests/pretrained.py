"""A real pretrained model for tests: fetched once into a cache, or else they are skipped."""

from __future__ import annotations

import fcntl
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from tools.pretrained import NotFetched, cached

ROWS: list[dict[str, Any]] = [
    {
        "problem": f"{who} has {has} {what}. {pronoun} {verb} {other} more. How many {what} does"
        f" {who} have now?",
        "problem_translated": f"{who} ana {jina} {has}. Anapata {jina} {other} zaidi. Sasa {who}"
        f" ana {jina} ngapi?",
        "solution": f"{has} + {other} = {has + other}, so the answer is \\boxed{{{has + other}}}.",
        "answer": str(has + other),
        "language": "swa",
    }
    for who, pronoun, verb, what, jina, has, other in (
        ("Asha", "She", "buys", "pens", "kalamu", 3, 4),
        ("Juma", "He", "finds", "coins", "sarafu", 5, 2),
        ("Neema", "She", "picks", "oranges", "chungwa", 6, 6),
        ("Baraka", "He", "is given", "books", "kitabu", 8, 1),
        ("Zawadi", "She", "bakes", "cakes", "keki", 7, 5),
        ("Musa", "He", "draws", "pictures", "picha", 9, 3),
        ("Rehema", "She", "catches", "fish", "samaki", 2, 9),
        ("Daudi", "He", "collects", "stamps", "stempu", 11, 4),
    )
]
"""Small problems in English, with a Swahili translation that no speaker has read."""


def fetched(name: str) -> Path:
    """The model's folder. Skips the test, with the reason, where it cannot be fetched."""
    with Path(tempfile.gettempdir(), f"opsd-{name}-{os.getuid()}.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # another process of these tests may be fetching it
        try:
            return cached(name)
        except NotFetched as error:
            pytest.skip(str(error))
