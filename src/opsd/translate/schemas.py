"""The schemas in which translations are written (`schemas.yaml`): our own, in which `problem` is
the translation and `translation` the English problem, and the two of COPSD's data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import yaml

from opsd.languages.registry import language
from opsd.types import COLUMNS, WHERE, Problem

_ROW = "row"


@dataclass(frozen=True)
class Translated:
    """A source problem and its translations by language: the accepted and the rejected ones."""

    problem: Problem
    accepted: Mapping[str, str]
    rejected: Mapping[str, str]


@cache
def schemas() -> Mapping[str, Mapping[str, str]]:
    """The schemas by name: the column for each text of a row."""
    text = (resources.files("opsd.translate") / "schemas.yaml").read_text("utf-8")
    return yaml.safe_load(text)


def rows(name: str, found: Sequence[Translated], codes: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yields translations as rows of a schema: a row per accepted translation, or one row per
    problem in which rejected translations are marked."""
    columns = schemas()[name]
    for one in found:
        if "accepted" in columns:
            yield {
                **_told(one.problem, columns),
                **_wide(one, columns, codes),
                **_about(one.problem),
            }
            continue
        for code in (code for code in codes if code in one.accepted):
            yield {
                columns["translated"]: one.accepted[code],
                **_told(one.problem, columns),
                columns["language"]: code if columns["called"] == "code" else language(code).name,
                **_about(one.problem),
            }


def source_id(problem: Problem) -> str:
    """The problem's id in the source, else the hash of its content."""
    return str(problem.metadata.get("id", problem.id))


def _wide(one: Translated, columns: Mapping[str, str], codes: Sequence[str]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for code in codes:
        text = one.accepted.get(code, one.rejected.get(code, ""))
        made[columns["translated"].format(language=code)] = text
        made[columns["accepted"].format(language=code)] = code in one.accepted
    return made


def _told(problem: Problem, columns: Mapping[str, str]) -> dict[str, str]:
    """The columns of the English problem: its text, solution and answer, if known."""
    solution = problem.privileged.get("solution")
    known = {"english": problem.text, "solution": solution, "answer": problem.answer}
    return {columns[name]: text for name, text in known.items() if text is not None}


def _about(problem: Problem) -> dict[str, Any]:
    """The row's id and number in the source, and the source's other metadata."""
    aside = (WHERE, COLUMNS, _ROW, "id")
    kept = {name: x for name, x in problem.metadata.items() if name not in aside}
    return {"id": source_id(problem), _ROW: problem.metadata[_ROW], **kept}
