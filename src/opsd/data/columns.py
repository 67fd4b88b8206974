"""One row as one problem: which column contains the problem, which the answer, and which the texts
that only the teacher reads.

The usual column names of this field's datasets are recognized: OpenThoughts in OPSD's form, GSM8K,
MATH, MGSM, AfriMGSM, PolyMath, AIME, both COPSD schemas (`problem_translated`, and
`problem_<language>` next to `problem_<language>_ok`), and conversational rows of TRL and ms-swift.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from decimal import Decimal
from functools import lru_cache
from typing import Any

from opsd.data.rows import Row
from opsd.grade.answer import gold_answer
from opsd.grade.format import extract_boxed
from opsd.languages.registry import codes, language
from opsd.types import COLUMNS, Problem, UserError

_USUAL = {
    "prompt": ("prompt", "problem_translated", "problem", "question", "messages"),
    "answer": ("answer_number", "answer", "Answer"),
    "solution": ("solution", "privileged_context"),
    "translation": ("translation", "problem_en"),
    **{name: (name,) for name in ("teacher_prompt", "demonstration", "document", "rubric")},
    **{name: (name,) for name in ("skills", "mistakes")},
}
USUAL = {*_USUAL, "language"}
"""The names under which the package itself looks up a row's texts."""
_ALIKE = {
    "prompt": ("query", "instruction", "input", "task", "text"),
    "answer": (
        *("final_answer", "expected_answer", "final", "target", "label", "gold", "gold_answer"),
        *("ground_truth", "correct_answer", "result"),
    ),
    "solution": ("rationale", "explanation", "reasoning", "response", "output", "cot"),
    "translation": ("english", "problem_english", "question_en", "english_problem"),
}
"""Names that no dataset of this field uses, but that suggest what a column contains."""
_METADATA = ("id", "unique_id", "question_id", "level", "subject", "source", "tags", "answer_type")
_GSM8K_CALCULATOR = re.compile(r"<<[^<>=]*=[^<>]*>>")
_GSM8K_ANSWER = re.compile(r"\n?####\s*([-+]?[^\w\s#]?-?\d[^\n#]{0,40}?)\s*$")


def problem(
    row: Row,
    columns: Mapping[str, str],
    lang: str,
    where: str,
    metadata: Mapping[str, Any] | None = None,
) -> Problem:
    """One row as a problem in the language `lang` (ISO 639-3). `columns` maps `prompt`, `answer`
    and the privileged texts to the row's columns and takes precedence over the usual names; `where`
    names the row in errors. Raises UserError for a row without a problem."""
    for name, column in columns.items():
        if column not in row:
            have = ", ".join(map(str, row))
            raise UserError(f"{where}: no column '{column}' for '{name}'; columns: {have}")
    told = tuple(column for column, value in row.items() if not _empty(value))
    names = _names(tuple(row), told, tuple(columns.items()), lang)
    if "prompt" not in names:
        have = ", ".join(map(str, row))
        raise UserError(f"{where}: no problem; set data.columns.prompt to one of {have}")
    # An empty cell counts as a missing text: a template that needs it reports that.
    fields = {name: row[column] for name, column in names.items() if column in told}
    prompt = fields.pop("prompt", None)
    if prompt is None:
        raise UserError(
            f"{where}: the column '{names['prompt']}' is empty; to leave such rows out, map"
            " data.columns.prompt to it and set filters.complete"
        )
    if names["prompt"] == "messages":
        prompt, fields["solution"] = _dialogue(prompt, fields.get("solution"))
    for name, value in fields.items():
        if isinstance(value, Mapping):
            raise UserError(f"{where}: the column '{names[name]}' contains a mapping, not a text")
    worked = _answer(fields.pop("answer", ""), f"{where}: the column '{names.get('answer')}'")
    if "solution" not in fields and _gsm8k_answer(worked):
        fields["solution"] = worked
    privileged = {
        name: _text(value, f"{where}: the column '{names.get(name, name)}'")
        for name, value in fields.items()
        if value is not None
    }
    if "solution" in privileged:
        privileged["solution"] = _boxed(privileged["solution"])
    # A worked solution that ends in a box states its own answer.
    gold = gold_answer(worked) if worked else extract_boxed(privileged.get("solution", ""))
    return Problem(
        prompt if isinstance(prompt, str) else _conversation(prompt, where),
        answer=gold,
        language=lang,
        privileged=privileged,
        metadata={
            **{name: row[name] for name in _METADATA if not _empty(row.get(name))},
            COLUMNS: _own(row),
            **(metadata or {}),
        },
    )


def named(row: Row, lang: str) -> dict[str, str]:
    """Which columns of a row contain the problem, its answer and the privileged texts, as far as
    the usual names tell.

    >>> named({"question": "1 + 1", "answer": 2, "id": 7}, "eng")
    {'prompt': 'question', 'answer': 'answer'}
    """
    return _names(tuple(row), tuple(row), (), lang)


def alike(row: Row, lang: str) -> dict[str, str]:
    """Columns under other names that probably contain the texts that `named` does not find.

    >>> alike({"question": "1 + 1", "final_answer": 2, "id": 7}, "eng")
    {'answer': 'final_answer'}
    """
    found, made = named(row, lang), {}
    free = {str(column).lower(): column for column in row if column not in found.values()}
    for name, words in _ALIKE.items():
        there = [word for word in words if word in free]
        if there and name not in found:
            made[name] = free.pop(there[0])
    return made


def wide_column(row: Row, lang: str) -> str | None:
    """The column with a translation into this language: `problem_<language>`, under any of the
    language's names. None if the row has no such column."""
    return _wide_column(tuple(row), lang)


@lru_cache
def _wide_column(columns: tuple[str, ...], lang: str) -> str | None:
    lower = {str(column).lower(): column for column in columns}
    found = (lower.get(f"problem_{name}") for name in language(lang).names)
    return next(filter(None, found), None)


def translations(row: Row) -> tuple[str, ...]:
    """The languages other than English for which the row has a `problem_<language>` column."""
    columns = tuple(row)
    # Most sets have no such column, and this runs for every problem.
    return _translations(columns, tuple(codes())) if _has_wide(columns) else ()


@lru_cache
def _has_wide(columns: tuple[str, ...]) -> bool:
    return any(str(column).lower().startswith("problem_") for column in columns)


def _own(row: Row) -> dict[str, Any]:
    """A row's non-empty columns without its translations: the problem itself is one of those."""
    aside = _wide_columns(tuple(row)) if _has_wide(tuple(row)) else ()
    return {name: x for name, x in row.items() if name not in aside and not _empty(x)}


@lru_cache
def _wide_columns(columns: tuple[str, ...]) -> frozenset[str | None]:
    return frozenset(_wide_column(columns, code) for code in codes())


@lru_cache
def _translations(columns: tuple[str, ...], known: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(code for code in known if code != "eng" and _wide_column(columns, code))


@lru_cache
def _names(
    here: tuple[str, ...], told: tuple[str, ...], columns: tuple[tuple[str, str], ...], lang: str
) -> dict[str, str]:
    """The columns of a row by what they contain: as mapped, else under their usual names. `here`
    are the row's columns, `told` those that are not empty: the same for most rows of a file."""
    names = dict(columns)
    wide = _wide_column(here, lang)
    found = {}
    for name, usual in _USUAL.items():
        # Of several usual names the first that is not empty: MGSM has an empty `answer`.
        there = [c for c in usual if c in told] or [c for c in usual if c in here]
        if there:
            found[name] = there[0]
    if wide is not None and wide != "problem_en":
        found["prompt"] = wide
    # Next to a translated problem, `problem` is the English one.
    shown = names.get("prompt", found.get("prompt"))
    if shown in (wide, "problem_translated") and "problem" in here:
        found.setdefault("translation", "problem")
    return {name: column for name, column in {**found, **names}.items() if name != "language"}


def _empty(value: Any) -> bool:
    if isinstance(value, str):
        return not value or value.isspace()
    if isinstance(value, list | tuple):
        return all(part is None or part == "" for part in value)
    return value is None or value != value  # tables without a missing value write NaN


def _answer(value: Any, where: str) -> str:
    """A cell of answers as text; several are joined by commas. UserError for a value that cannot be
    an answer."""
    parts = value if isinstance(value, list | tuple) else [value]
    for part in parts:
        finite = not isinstance(part, float) or math.isfinite(part)
        if not isinstance(part, str | int | float | Decimal) or not finite:
            raise UserError(
                f"{where} contains {_described(part)}, which is not an answer; map"
                " data.columns.answer to texts, numbers, or lists of them"
            )
    texts = (str(part).lower() if isinstance(part, bool) else str(part) for part in parts)
    return ", ".join(texts)


def _described(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "a list within a list"
    return "a mapping within a list" if isinstance(value, Mapping) else f"{str(value)[:40]!r}"


def _text(value: Any, where: str) -> str:
    """A cell as text; of a conversation, the contents of its turns. UserError for lists within
    lists."""
    if not isinstance(value, list | tuple):
        return str(value)
    contents = [_said(turn.get("content")) if isinstance(turn, Mapping) else turn for turn in value]
    for content in contents:
        if isinstance(content, list | tuple | Mapping):
            raise UserError(f"{where} contains {_described(content)}, not texts or turns")
    return "\n\n".join(str(content) for content in contents if content)


def _dialogue(messages: Any, solution: Any) -> tuple[Any, Any]:
    """Splits messages that end with the assistant's turn into a problem and its solution."""
    if isinstance(messages, list | tuple) and len(messages) > 1:
        last = messages[-1]
        if isinstance(last, Mapping) and last.get("role") == "assistant":
            return messages[:-1], solution or last.get("content")
    return messages, solution


def _conversation(prompt: Any, where: str) -> tuple[dict[str, str], ...]:
    """A prompt as messages that end with the user's turn."""
    turns = [
        {**turn, "content": _said(turn.get("content"))} if isinstance(turn, Mapping) else turn
        for turn in (prompt if isinstance(prompt, list | tuple) else ())
    ]
    if not turns or not all(
        isinstance(turn, Mapping)
        and isinstance(turn.get("role"), str)
        and isinstance(turn["content"], str)
        for turn in turns
    ):
        raise UserError(
            f"{where}: a prompt must be a text, or a list of messages with 'role' and 'content'"
        )
    if turns[-1]["role"] != "user":
        raise UserError(
            f"{where}: a conversation must end with the user's turn, not the {turns[-1]['role']}'s"
        )
    return tuple(turns)


def _said(content: Any) -> Any:
    """A turn's content; a list of texts, as vision-language models use, is joined into one text."""
    parts = content if isinstance(content, list | tuple) else ()
    texts = [part.get("text") for part in parts if isinstance(part, Mapping)]
    whole = texts and len(texts) == len(parts) and all(isinstance(text, str) for text in texts)
    return "\n\n".join(texts) if whole else content


def _boxed(text: str) -> str:
    r"""A GSM8K solution in the usual form: no calculator marks, and `\boxed{n}` at its end."""
    if not _gsm8k_answer(text):
        return text
    return _GSM8K_ANSWER.sub(r"\n\\boxed{\1}", _GSM8K_CALCULATOR.sub("", text))


def _gsm8k_answer(text: str) -> bool:
    """Whether a solution ends like GSM8K's. The mark is searched first, since the pattern tries
    every position of a long text."""
    return "####" in text and _GSM8K_ANSWER.search(text) is not None
