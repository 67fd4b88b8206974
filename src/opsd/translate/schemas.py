"""The forms in which translations are written: our own, and the two of COPSD's data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from opsd.languages.registry import language
from opsd.types import COLUMNS, WHERE, Problem

_Row = dict[str, Any]
_ROW = "row"


@dataclass(frozen=True)
class Translated:
    """A source problem and its translations by language: those that are accepted, and those that
    are not."""

    problem: Problem
    accepted: Mapping[str, str]
    rejected: Mapping[str, str]


def _own(found: Sequence[Translated], codes: Sequence[str]) -> Iterator[_Row]:
    """A row per translation: `problem` is the translation, `translation` the English problem, as
    for a model that learns in the language and a teacher that reads English."""
    for one in found:
        for code in codes:
            if code in one.accepted:
                yield {
                    "problem": one.accepted[code],
                    "translation": one.problem.text,
                    **_texts(one.problem, "answer"),
                    "language": code,
                    **_about(one.problem),
                }


def _copsd(found: Sequence[Translated], codes: Sequence[str]) -> Iterator[_Row]:
    """The columns of COPSD's published sets: `problem_translated` beside the English `problem`."""
    for one in found:
        for code in codes:
            if code in one.accepted:
                yield {
                    "problem": one.problem.text,
                    **_texts(one.problem, "Answer"),
                    "problem_translated": one.accepted[code],
                    "language": language(code).name,
                    **_about(one.problem),
                }


def _copsd_wide(found: Sequence[Translated], codes: Sequence[str]) -> Iterator[_Row]:
    """What COPSD's code reads: a row per problem, `problem_<language>` for each language, beside it
    `problem_<language>_ok`."""
    for one in found:
        row = {"problem": one.problem.text, **_texts(one.problem, "Answer")}
        for code in codes:
            row[f"problem_{code}"] = one.accepted.get(code, one.rejected.get(code, ""))
            row[f"problem_{code}_ok"] = code in one.accepted
        yield {**row, **_about(one.problem)}


def _texts(problem: Problem, answer: str) -> _Row:
    solution = problem.privileged.get("solution")
    return {
        **({} if solution is None else {"solution": solution}),
        **({} if problem.answer is None else {answer: problem.answer}),
    }


def _about(problem: Problem) -> _Row:
    """Where the row comes from, and what the source says of it besides."""
    aside = (WHERE, COLUMNS, _ROW, "id")
    kept = {name: x for name, x in problem.metadata.items() if name not in aside}
    return {"id": source_id(problem), _ROW: problem.metadata[_ROW], **kept}


def source_id(problem: Problem) -> str:
    """What the source calls the problem, else the hash of its content."""
    return str(problem.metadata.get("id", problem.id))


SCHEMAS: dict[str, Callable[[Sequence[Translated], Sequence[str]], Iterator[_Row]]] = {
    "ours": _own,
    "copsd": _copsd,
    "copsd-wide": _copsd_wide,
}
"""The forms by name."""
