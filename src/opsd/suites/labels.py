"""Labels that are wrong in a suite's own files, and their corrections.

Published numbers were measured on the unchanged files. So a language with wrong labels is scored
twice from the same samples: `upstream`, as published, and `corrected`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import resources

import yaml

from opsd.grade.answer import answers_match
from opsd.types import Problem

UPSTREAM, CORRECTED = "upstream", "corrected"


@dataclass(frozen=True)
class Fix:
    """A wrong label: what the file says, and the right label (None if no label is right)."""

    upstream: str
    corrected: str | None

    def concerns(self, answer: str) -> bool:
        """Whether the file still contains the wrong label, and has not been corrected."""
        return answers_match(answer, self.upstream)


@cache
def fixes(suite: str, language: str) -> dict[int, Fix]:
    """The known wrong labels of a suite in one language, by row from 0."""
    file = resources.files("opsd.suites") / "label_fixes" / f"{suite}.yaml"
    if not file.is_file():
        return {}
    listed = yaml.safe_load(file.read_text("utf-8")).get(language, [])
    return {
        row: Fix(upstream, corrected)
        for entry in listed
        for row, (upstream, corrected) in entry["rows"].items()
    }


def fix_of(suite: str, language: str, row: int | None, answer: str) -> Fix | None:
    """The fix that a row needs, or None: for most rows, and for rows that were fixed upstream."""
    fix = None if row is None else fixes(suite, language).get(row)
    return fix if fix is not None and fix.concerns(answer) else None


def mended(suite: str, problems: Iterable[Problem]) -> list[int]:
    """Rows with labels that were wrong once and have changed since."""
    return [
        row
        for p in problems
        if p.answer and (row := p.metadata.get("row")) in fixes(suite, p.language)
        if fix_of(suite, p.language, row, p.answer) is None
    ]
