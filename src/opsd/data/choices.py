"""Multiple choice: a question and its lettered options as one problem, whose answer is a letter."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import Any

from pydantic import BaseModel, ConfigDict

from opsd.data.rows import Row
from opsd.types import CHOICES, Problem, UserError


class Choices(BaseModel):
    """Which columns contain a row's options, and which option is right.

    `options` is the column that contains all of them (a list of texts; or lists called `text` and
    `label`, as in ARC and SciKnowEval), or a list of columns with one option each. `key` is the
    column that names the right option: by its letter or label, by its number from 0, or by its
    text. A row is left out if its key could be the number of one option and the text of another: in
    a CSV file `2` may be either, and only a key of a number type next to options that are all texts
    is surely a number. Without `key` the first option is right, as in GPQA, and the options are
    ordered by a hash of the problem: the order is the same in every run, and the right letter
    varies between problems. `ask` ends the question.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    options: str | tuple[str, ...]
    key: str | None = None
    ask: str = "Choose one of the options above. The answer is its letter alone."

    @property
    def columns(self) -> set[str]:
        """The columns that this reads."""
        options = (self.options,) if isinstance(self.options, str) else self.options
        return {*options, *filter(None, [self.key])}

    def fault(self, row: Row, where: str) -> str | None:
        """Why a row is left out, or None: it has fewer than two options, an empty option, or no
        option is marked as right. Raises UserError for missing columns."""
        try:
            self._read(row, where)
        except ValueError as error:
            return str(error)
        return None

    def posed(self, problem: Problem, row: Row, where: str) -> Problem:
        """The problem with its lettered options below the question, for a row without a fault."""
        if not isinstance(problem.prompt, str):
            raise UserError(f"{where}: a question with options must be a text, not a conversation")
        texts, right = self._read(row, where)
        order = list(range(len(texts)))
        if self.key is None:
            order.sort(key=lambda i: _hash(problem.text, texts[i]))
        lines = [f"{ascii_uppercase[n]}. {texts[i]}" for n, i in enumerate(order)]
        return Problem(
            "\n\n".join([problem.prompt.strip(), "\n".join(lines), self.ask]),
            answer=ascii_uppercase[order.index(right)],
            language=problem.language,
            privileged=problem.privileged,
            metadata={**problem.metadata, CHOICES: tuple(texts[i] for i in order)},
        )

    def _read(self, row: Row, where: str) -> tuple[list[str], int]:
        """The options' texts, and the number of the right one. ValueError if there is none."""
        if isinstance(self.options, str):
            found = _cell(row, self.options, where)
            names = found.get("label") if isinstance(found, Mapping) else None
            found = found.get("text") if isinstance(found, Mapping) else found
        else:
            found, names = [_cell(row, column, where) for column in self.options], None
        options = found if isinstance(found, list | tuple) else []
        texts = [_text(option) for option in options]
        if not all(texts) or not 2 <= len(texts) <= len(ascii_uppercase):
            raise ValueError("fewer than two options, or an empty one")
        labels = [_text(name) for name in names or ascii_uppercase[: len(texts)]]
        if len(labels) != len(texts):
            raise ValueError("not exactly one label for each option")
        if self.key is None:
            return texts, 0
        key = _cell(row, self.key, where)
        typed = isinstance(key, int) and all(isinstance(option, str) for option in options)
        return texts, _place(_text(key), texts, labels, typed)


def _cell(row: Row, column: str, where: str) -> Any:
    if column not in row:
        raise UserError(f"{where}: no column '{column}' for 'choices'; columns: {', '.join(row)}")
    return row[column]


def _text(cell: Any) -> str:
    return "" if cell is None else str(cell).strip()


def _place(key: str, texts: Sequence[str], labels: Sequence[str], typed: bool) -> int:
    """The number of the right option. A `typed` key has a number type while all options are texts.
    ValueError if no option matches the key, or several do."""
    if labels.count(key) == 1:
        return labels.index(key)
    called = {number for number, text in enumerate(texts) if text == key}
    counted = {number for number in range(len(texts)) if str(number) == key}
    meant = counted if counted and typed else called | counted
    if len(meant) == 1:
        return meant.pop()
    if counted:
        raise ValueError("the key may be the number of one option or the text of another")
    raise ValueError("the key matches none of the options")


def _hash(question: str, option: str) -> str:
    return hashlib.sha256(f"{question}\n{option}".encode()).hexdigest()
