"""Labels that are wrong in a suite's own files, and what is right in their place.

Published numbers were measured on the files as they are. So a language with wrong labels is scored
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
    """A wrong label: what the file says, and what is right (None: nothing is)."""

    upstream: str
    corrected: str | None

    def concerns(self, answer: str) -> bool:
        """Whether the file still says what was wrong, and has not been mended."""
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
    """The fix that a row needs, or None: for most rows, and for one that was mended upstream."""
    fix = None if row is None else fixes(suite, language).get(row)
    return fix if fix is not None and fix.concerns(answer) else None


def mended(suite: str, problems: Iterable[Problem]) -> list[int]:
    """Rows whose labels were wrong once and now say something else."""
    return [
        row
        for p in problems
        if p.answer and (row := p.metadata.get("row")) in fixes(suite, p.language)
        if fix_of(suite, p.language, row, p.answer) is None
    ]
