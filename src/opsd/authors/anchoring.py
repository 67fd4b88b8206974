r"""Checks a peer's feedback: it must refer to something that the question names, and must not give
the answer away (OPCoD, Byeon et al. 2026, arXiv 2606.14368; its rules are not public, these are
ours).

A tutor answers with `CONCEPT: <words of the question>` and then `FEEDBACK: <a few sentences>`.
Sentences that give the answer away are removed.
"""

from __future__ import annotations

import re
from string import ascii_uppercase
from typing import Literal

from opsd.grade.answer import gold_answer
from opsd.grade.choice import options_of
from opsd.grade.numerals import (
    DecimalMark,
    PlainNumber,
    decimal_mark,
    one_number,
    same_number,
    tidy,
)
from opsd.grade.scripts import ascii_numerals
from opsd.grade.spoken import spoken
from opsd.types import Problem

Fault = Literal["form", "concept", "short"]
"""Not in this form; about something that the question does not name; too short."""

OVERLAP = 0.8
"""The share of a concept's words that must occur in the question."""
SHORTEST = 20
"""The minimum length of a feedback in characters, after sentences that give the answer away are
removed."""

_FORM = re.compile(r"\s*CONCEPT:[ \t]*([^\n]+)\n\s*FEEDBACK:(.+)", re.DOTALL)
_SENTENCES = re.compile(r"(?<=[.!?\u3002\u0964])\s+|\n+")
_WORDS = re.compile(r"\w+")
_NUMERAL = re.compile(r"[-+]?\d+(?:[.,/]\d+)*")
_STATES = re.compile(
    r"\\boxed|####|</?answer>|\b(?:answer|correct (?:option|choice))\b[^\w\n]*(?:is|=|:|would be)",
    re.IGNORECASE,
)
_LONGEST_SPOKEN = 6
"""The maximum number of words of a spoken number."""


def anchored(text: str, problem: Problem) -> tuple[str, None] | tuple[None, Fault]:
    """The feedback in a tutor's text about an attempt at a problem, or what is wrong with it."""
    match = _FORM.fullmatch(text)
    if match is None:
        return None, "form"
    if not named(match[1], problem.text):
        return None, "concept"
    said = (sentence.strip() for sentence in _SENTENCES.split(match[2]))
    feedback = " ".join(x for x in said if x and not gives_away(x, problem))
    # Two sentences may give the answer away only when joined.
    if len(feedback) < SHORTEST or gives_away(feedback, problem):
        return None, "short"
    return feedback, None


def named(concept: str, question: str) -> bool:
    """Whether a question names a concept: nearly all of its words occur in the question.

    >>> named("kinetic energy", "What is the Kinetic energy of ...?"), named("entropy", "Energy?")
    (True, False)
    """
    words, known = _words(concept), set(_words(question))
    return bool(words) and sum(word in known for word in words) >= OVERLAP * len(words)


def gives_away(text: str, problem: Problem) -> bool:
    """Whether a text states an answer, or contains the problem's own: its number in any notation,
    the letter or the words of its option, or its exact words.

    >>> problem = Problem("What is 6 x 7?", answer="42")
    >>> [gives_away(x, problem) for x in ("6 x 7 = 42.0", "forty-two", "so 420", "the answer is 7")]
    [True, True, False, True]
    """
    if _STATES.search(text):
        return True
    gold = gold_answer(problem.answer or "")
    options = options_of(problem)
    if options and gold in ascii_uppercase[: len(options)]:
        letter = re.search(rf"(?<!\w){re.escape(gold)}(?!\w)", text)
        return bool(letter) or _holds(text, options[ascii_uppercase.index(gold)])
    mark = decimal_mark(problem.language)
    number = one_number(tidy(gold), mark)
    return _holds(text, gold) if number is None else _holds_number(text, number, mark)


def _words(text: str) -> list[str]:
    return _WORDS.findall(text.casefold())


def _holds(text: str, words: str) -> bool:
    sought = _words(words)
    return bool(sought) and f" {' '.join(sought)} " in f" {' '.join(_words(text))} "


def _holds_number(text: str, number: PlainNumber, mark: DecimalMark) -> bool:
    words = text.split()
    runs = (words[i : i + n] for i in range(len(words)) for n in range(1, _LONGEST_SPOKEN + 1))
    if number.value in (spoken(" ".join(run).strip(".,;:!?()")) for run in runs):
        return True
    numerals = (tidy(x) for x in _NUMERAL.findall(ascii_numerals(text)))
    found = (one_number(x, mark) for x in numerals)
    return any(x is not None and same_number(x, number) for x in found)
