"""Verifiers of texts: a matching answer, a regular expression, JSON that conforms to a schema."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator

from opsd.grade.format import answer_part, extract_boxed
from opsd.parts import part
from opsd.sandbox.process import Limited, WorkerError
from opsd.types import Problem, RunFailed, Verdict
from opsd.validation import install

WORKER = Path(__file__).with_name("text_worker.py")
WALL_LIMIT_S = 4.0
# Patterns and schemas are the user's, the texts a model's: together they can take forever.
_worker = Limited("text grader", WORKER, WorkerError)

Ignored = Literal["case", "punctuation", "articles", "accents"]

_IN_NUMBER = re.compile(r"[-\u2212.,](?=\d)")
"""A sign, or a mark within a number: -5 is not 5."""
_ARTICLE = re.compile(r"\b(?:an?|the)\b", re.IGNORECASE)


def normalized(text: str, ignore: tuple[Ignored, ...]) -> str:
    """A text without what is ignored: case, punctuation, English articles, or accents. Runs of
    white space become one space, and compatible characters the same (NFKC).

    >>> normalized("The  Nile!", ("case", "punctuation", "articles"))
    'nile'
    """
    text = unicodedata.normalize("NFKC", text)
    if "accents" in ignore:
        parts = unicodedata.normalize("NFD", text)
        text = "".join(c for c in parts if not unicodedata.combining(c))
    if "case" in ignore:
        text = text.casefold()
    if "punctuation" in ignore:
        kept = {found.start() for found in _IN_NUMBER.finditer(text)}
        text = "".join(
            " " if unicodedata.category(c)[0] == "P" and i not in kept else c
            for i, c in enumerate(text)
        )
    if "articles" in ignore:
        text = _ARTICLE.sub(" ", text)
    return " ".join(text.split())


def _golds(problem: Problem, column: str) -> list[str]:
    """The right answers of a problem: one, or each of a list."""
    told = problem.column(column)
    found = list(told) if isinstance(told, list | tuple) else [told]
    if not found or any(gold is None or not str(gold).strip() for gold in found):
        raise ValueError(f"{problem.name} has no '{column}' to compare with: map a column to it")
    return [str(gold) for gold in found]


@part
class MatchVerifier:
    r"""Reward 1 if the completion's answer is the right text, else 0.

    `answer` says where the answer is: in the `box` (the last complete `\boxed{}`), in the
    `last_line`, or `all` of the completion. Both texts are stripped. `ignore` says what does not
    count (`case`, `punctuation`, `articles`, `accents`); if it is empty, the texts must be
    identical. `column` contains the right text, or a list of right texts. `after_think` as in
    `MathVerifier`.

    >>> MatchVerifier(answer="all")(Problem("Capital?", answer="Nairobi"), "nairobi.").correct
    True
    """

    answer: Literal["box", "last_line", "all"] = "box"
    ignore: tuple[Ignored, ...] = ("case", "punctuation")
    column: str = "answer"
    after_think: bool = False
    type: Literal["match"] = "match"

    @property
    def needs_answer(self) -> bool:
        """Whether a problem without an answer cannot be graded."""
        return self.column == "answer"

    def __call__(self, problem: Problem, completion: str) -> Verdict:
        """Grade one completion; `ValueError` for a problem without a right text."""
        golds = {self._form(gold) for gold in _golds(problem, self.column)}
        said = self.said(problem, completion)
        right = said is not None and self._form(said) in golds
        return Verdict(float(right), right, said is not None)

    def said(self, problem: Problem, completion: str) -> str | None:
        """The text that is compared; None if there is none."""
        text = answer_part(completion, self.after_think).strip()
        if self.answer == "box":
            return extract_boxed(text)
        return (text if self.answer == "all" else text.rpartition("\n")[2].strip()) or None

    def _form(self, text: str) -> str:
        return normalized(text, self.ignore) if self.ignore else text.strip()


def _compiles(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from error
    return pattern


@part
class RegexVerifier:
    r"""Reward 1 if a regular expression (Python's `re`) is found in the completion, else 0. If it
    has a group called `answer`, the group's text in the last match must also be the right text,
    compared as `MatchVerifier` does. A search that takes longer than a second finds nothing.

    >>> verifier = RegexVerifier(r"Answer: (?P<answer>\w+)")
    >>> verifier(Problem("Capital?", answer="Nairobi"), "Answer: Nairobi").correct
    True
    """

    pattern: Annotated[str, AfterValidator(_compiles)]
    ignore: tuple[Ignored, ...] = ("case", "punctuation")
    column: str = "answer"
    after_think: bool = False
    type: Literal["regex"] = "regex"

    @property
    def compares(self) -> bool:
        """Whether what is found is compared with a right text."""
        return "answer" in re.compile(self.pattern).groupindex

    @property
    def needs_answer(self) -> bool:
        """Whether a problem without an answer cannot be graded."""
        return self.compares and self.column == "answer"

    def __call__(self, problem: Problem, completion: str) -> Verdict:
        """Grade one completion; `ValueError` for a problem without a right text."""
        found = self._found(completion)
        right = found is not None
        if self.compares:
            golds = {normalized(gold, self.ignore) for gold in _golds(problem, self.column)}
            right = right and normalized(found or "", self.ignore) in golds
        return Verdict(float(right), right, found is not None)

    def said(self, problem: Problem, completion: str) -> str | None:
        """The text of the group `answer`, or of the whole match; None if nothing is found."""
        return self._found(completion)

    def _found(self, completion: str) -> str | None:
        text = answer_part(completion, self.after_think)
        return _worker.ask({"pattern": self.pattern, "text": text}, WALL_LIMIT_S).get("found")


@part
class JSONVerifier:
    """Reward 1 if the completion is JSON that conforms to a JSON Schema, else 0. `format_ok` is
    true if it is JSON at all; the feedback says what is wrong, and where.

    The JSON is the last block fenced as such, or all of the completion. `schema` applies to all
    problems; without it, each problem has its own in the column `column`, as a mapping or as text.
    References to anything outside a schema are not resolved. Needs the package jsonschema.
    `after_think` as in `MathVerifier`.
    """

    schema: Mapping[str, Any] | None = None
    column: str = "schema"
    after_think: bool = False
    type: Literal["json_schema"] = "json_schema"
    needs_answer: ClassVar[bool] = False

    def __call__(self, problem: Problem, completion: str) -> Verdict:
        """Grade one completion; `ValueError` for a problem without a schema, or with a bad one."""
        text = fenced(answer_part(completion, self.after_think), "json")
        request = {"schema": self._schema(problem), "text": text}
        reply = _worker.ask(request, WALL_LIMIT_S)
        if reply.get("missing"):
            raise RunFailed(f"JSON schemas need the package jsonschema: {install('schema')}")
        if "refused" in reply:
            raise ValueError(f"{problem.name}: its schema is not valid ({reply['refused']})")
        wrong = reply.get("wrong", "it takes too long to read")
        return Verdict(float(wrong is None), wrong is None, bool(reply.get("json")), wrong)

    def _schema(self, problem: Problem) -> Any:
        if self.schema is not None:
            return dict(self.schema)
        told = problem.column(self.column)
        try:
            schema = json.loads(told) if isinstance(told, str) else told
        except ValueError as error:
            raise ValueError(f"{problem.name}: its '{self.column}' is not JSON") from error
        if not isinstance(schema, Mapping):
            raise ValueError(
                f"{problem.name} has no schema in a column '{self.column}': add one, or set the"
                " verifier's `schema` for all problems"
            )
        return dict(schema)


_FENCE = re.compile(r"[ \t]*(`{3,}|~{3,})[ \t]*([\w+-]*)")


def fenced(text: str, language: str) -> str:
    r"""The last block of a text that is fenced with this language; else the last fenced block
    without a language; else all of the text. A block that is not closed does not count.

    >>> fenced("So:\n```json\n{}\n```\nDone.", "json")
    '{}\n'
    """
    last: dict[str, str] = {}
    fence, kind, inside = "", "", list[str]()
    for line in text.splitlines(keepends=True):
        found = _FENCE.match(line)
        if not fence and found:
            fence, kind, inside = found[1], found[2].lower(), []
        elif fence and line.strip() == fence:
            last[kind], fence = "".join(inside), ""
        elif fence:
            inside.append(line)
    return last.get(language, last.get("", text))
