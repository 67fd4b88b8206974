r"""Which option of a multiple-choice problem a completion chooses, and whether it is right.

Only an explicit statement counts: a box, a phrase in English (`The answer is (B).`), or a last line
that is a letter alone. The last statement decides, even if it names none of the options. A letter
in running text chooses nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from string import ascii_uppercase
from typing import ClassVar, Literal

from opsd.grade.answer import MAX_ANSWER_CHARS
from opsd.grade.format import answer_part, last_box
from opsd.grade.letters import CLOSE, OPEN, TEX, lettered
from opsd.parts import part
from opsd.types import CHOICES, Problem, Verdict

# `The answer is B`, `**Answer:** (B)`, `the correct option is B`; not `the answer is B or C`, nor
# `the answer is A dog`.
_PHRASE = re.compile(
    r"\b(?i:answer|(?:correct|right)\s+(?:option|choice))[*_\"']*+(?:\s+(?i:is)\b:?|\s*:)"
    rf"{OPEN}(?:(?i:option|choice)\s+{OPEN})?(?P<letter>[A-Z])(?![\w'\u2019])"
    rf"(?![ \t]+(?!because\b|since\b|as\b)[a-z]){CLOSE}"
    r"(?!(?:/|,?\s*(?i:or|and|nor)\b|,\s*[A-Z]\b))"
)


def chosen(text: str, options: Sequence[str]) -> str | None:
    r"""The letter of the option that a text chooses last; None if it chooses none of them.

    >>> chosen(r"So it is \boxed{B}.", ["red", "blue"]), chosen("**Answer:** (A)", ["red", "blue"])
    ('B', 'A')
    >>> chosen(r"\boxed{\text{blue}}", ["red", "blue"]), chosen("B is wrong.", ["red", "blue"])
    ('B', None)
    """
    box, content = last_box(text)
    phrase = max(_PHRASE.finditer(text), key=lambda found: found.start(), default=None)
    before, _, line = text.rstrip().rpartition("\n")
    told = _by_letter(line, options)
    if (
        told is not None
        and told in line
        and len(before) >= max(box, phrase.start() if phrase else 0)
    ):
        return told  # it must be a capital letter, unlike in a box
    if phrase is not None and phrase.start() > box:
        return phrase["letter"] if phrase["letter"] in _letters(options) else None
    return _by_letter(content, options) or _by_text(content, options)


def _letters(options: Sequence[str]) -> str:
    return ascii_uppercase[: len(options)]


def _by_letter(text: str, options: Sequence[str]) -> str | None:
    """The option that a box or a line names by its letter, or by its letter and text."""
    said = lettered(text) if len(text) <= MAX_ANSWER_CHARS else None
    if said is None or said[0] not in _letters(options):
        return None
    letter, rest = said
    return letter if _plain(rest) in ("", _plain(options[ascii_uppercase.index(letter)])) else None


def _by_text(text: str, options: Sequence[str]) -> str | None:
    """The one option with the same text as a box."""
    texts = [_plain(option) for option in options]
    said = _plain(text)
    return ascii_uppercase[texts.index(said)] if said and texts.count(said) == 1 else None


def _plain(text: str) -> str:
    """A text, case folded, without TeX's commands for upright type or marks at its ends."""
    return " ".join(TEX.sub("", text).casefold().strip(" \n$*_{}.").split())


def options_of(problem: Problem) -> Sequence[str]:
    """The options of a multiple-choice problem, in letter order; empty for any other problem."""
    return problem.metadata.get(CHOICES, ())


@part
class ChoiceVerifier:
    r"""Reward 1 if the option that was chosen last is the right one, else 0. `after_think` as in
    `MathVerifier`.

    >>> problem = Problem("?", answer="B", metadata={"choices": ("red", "blue")})
    >>> ChoiceVerifier()(problem, r"It is \boxed{B}.").reward
    1.0
    """

    type: Literal["multiple_choice"] = "multiple_choice"
    after_think: bool = False
    needs_answer: ClassVar[bool] = True
    reads_boxes: ClassVar[bool] = True

    def __call__(self, problem: Problem, completion: str) -> Verdict:
        """Grade one completion; `ValueError` for a problem without options or a right letter."""
        options = options_of(problem)
        if not problem.answer or problem.answer not in _letters(options):
            raise ValueError(f"{problem.name} is not a multiple-choice problem with a right letter")
        said = self.said(problem, completion)
        return Verdict(float(said == problem.answer), said == problem.answer, said is not None)

    def said(self, problem: Problem, completion: str) -> str | None:
        """The letter of the option that is chosen last."""
        return chosen(answer_part(completion, self.after_think), options_of(problem))
