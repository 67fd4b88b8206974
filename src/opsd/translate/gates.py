"""Quality gates: tests that find translations that went wrong.

Each gate reads the English text and the translation, and yields what is wrong. What is usual in a
language (how long its texts are, whether it writes numbers as words) was measured on published
translations (`measured.yaml`); for a language that was not measured, wide bounds apply.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, NamedTuple

import yaml

from opsd.grade.fidelity import PIECE, identified, known, readable
from opsd.grade.traits import overlap
from opsd.languages.files import of_script
from opsd.languages.registry import language
from opsd.translate.marks import (
    latex_faults,
    lost_names,
    names,
    placeholder_faults,
    unit_faults,
    without_math,
    without_placeholders,
)
from opsd.translate.numbers import allowed, numbers, spelled_in_east, values
from opsd.translate.sentences import asks, split

_COPIED_WORDS = 4
"""Length of a sequence of words that counts as copied if both texts contain it."""
_COPIED_SHARE = 0.1
_FOREIGN_SHARE = 0.5


class Usual(NamedTuple):
    """What is usual in a language. `length` is the median of the natural log of the ratio of the
    translation's characters to the English text's, `spread` its robust standard deviation. Numbers
    from `digits_from` on are in digits if English has digits (None: any may be words). `sentences`
    says that texts have as many sentences as in English; `question_mark`, that questions have one;
    `names`, that names are spelled as in English. `taken_for` are the languages for which the
    identifier mistakes it."""

    length: float
    spread: float
    digits_from: int | None = None
    sentences: bool = False
    question_mark: bool = False
    names: bool = False
    taken_for: tuple[str, ...] = ()


_WIDE = {"Hans": -1.1, "Hant": -1.1, "Jpan": -0.75, "Kore": -0.6}


@dataclass(frozen=True)
class Pair:
    """An English text and its candidate translation into a language (ISO 639-3)."""

    source: str
    target: str
    language: str


@dataclass(frozen=True)
class Fault:
    """The gate that a translation does not pass, and why."""

    gate: str
    why: str

    def __str__(self) -> str:
        return f"{self.gate}: {self.why}"


Gate = Callable[[Pair], Iterator[str]]


@cache
def measured() -> Mapping[str, Any]:
    """What is usual in good translations, as measured, by language code."""
    text = (resources.files("opsd.translate") / "measured.yaml").read_text("utf-8")
    return yaml.safe_load(text) or {}


@cache
def usual(code: str) -> Usual:
    """What is usual in a language: as measured, else wide bounds."""
    found = measured().get(code)
    if found is not None:
        return Usual(**{**found, "taken_for": tuple(found["taken_for"])})
    return Usual(_WIDE.get(language(code).script, 0.05), 0.3)


def judged(pair: Pair, without: Iterable[str] = ()) -> list[Fault]:
    """What is wrong with a translation, by all gates except `without`; empty if it passes.

    >>> judged(Pair("Juma has 4 eggs.", "Juma ana mayai 5.", "swa"))[0].why
    '5 is not in the English text (4)'
    """
    chosen = (name for name in GATES if name not in set(without))
    return [Fault(name, why) for name in chosen for why in GATES[name](pair)]


def _number_faults(pair: Pair) -> Iterator[str]:
    """Numbers in digits that the English text contains neither in digits nor in words; and, if the
    language does not write numbers as words, missing numbers of the English text."""
    said, here = numbers(pair.source), numbers(pair.target)
    known_values = allowed(pair.source)
    extra = [number.text for number in here if not number.within(known_values)]
    told = ", ".join(dict.fromkeys(number.text for number in said)) or "none"
    for text in dict.fromkeys(extra):
        yield f"{text} is not in the English text ({told})"
    there = values(here) | spelled_in_east(pair.target)
    least = usual(pair.language).digits_from
    if least is not None:
        lost = [n for n in said if min(n.readings) >= least and not n.within(there)]
        if lost:
            yield f"missing from the English text: {', '.join(dict.fromkeys(n.text for n in lost))}"


def _language_faults(pair: Pair) -> Iterator[str]:
    """A script or a language that is not the requested one: less than half of the letters that can
    be identified are in it, or none. For a language that the identifier does not know: more than
    half is identified as a language for which the identifier does not usually mistake it."""
    plain = without_math(pair.target)
    asked = language(pair.language)
    own, letters = of_script(plain, asked.script)
    if letters and own < _FOREIGN_SHARE * letters:
        yield f"{letters - own} of {letters} letters are not of the script {asked.script}"
        return
    spoken, judged_letters = identified(plain), readable(plain)
    alike = {pair.language, *usual(pair.language).taken_for}
    inside = sum(spoken[code] for code in alike)
    foreign = spoken.total() - inside
    if pair.language in known():
        # A single piece may be too short to identify: this happens in all languages.
        wrong = foreign > inside or (inside == 0 and judged_letters >= 2 * PIECE)
    else:
        wrong = foreign > _FOREIGN_SHARE * judged_letters
    if wrong:
        others = [code for code, _ in spoken.most_common() if code not in alike]
        yield f"not in {asked.name}, but in {others[0] if others else 'an unknown language'}"


def _copy_faults(pair: Pair) -> Iterator[str]:
    """Sequences of words that were copied from the English text."""
    same, grams = overlap(without_math(pair.target), without_math(pair.source), _COPIED_WORDS)
    if same > 1 and same > _COPIED_SHARE * grams:
        yield f"{same} of {grams} sequences of {_COPIED_WORDS} words are from the English text"


def _length_faults(pair: Pair) -> Iterator[str]:
    """A translation that is much shorter or longer than usual in the language."""
    about = usual(pair.language)
    away = _log_ratio(pair) - about.length
    if abs(away) > _LENGTHS * about.spread:
        told = f"{len(pair.target)} characters for {len(pair.source)} English ones"
        yield f"{told}: {'longer' if away > 0 else 'shorter'} than usual in {pair.language}"


_LENGTHS = 4.0
"""Bound on a text's length, in standard deviations."""
_SHORTER = 0.6
"""Share of the log ratio of a text without one average sentence that counts as a dropped one."""


def _sentence_faults(pair: Pair) -> Iterator[str]:
    """Dropped sentences: the text has fewer than the English one, and is nearly as short as it
    would be without one, or no longer asks the question."""
    about = usual(pair.language)
    given, made = len(split(pair.source)), len(split(pair.target))
    if not about.sentences or made >= given:
        return
    if about.question_mark and asks(pair.source) and not asks(pair.target):
        yield f"{made} sentences of {given}, and the question is not among them"
    elif _log_ratio(pair) - about.length < _SHORTER * math.log((given - 1) / given):
        yield f"{made} sentences of {given}"


def _name_faults(pair: Pair) -> Iterator[str]:
    """Proper names that are all lost, in languages that write them as English does. Translations
    often replace some of them."""
    if not usual(pair.language).names:
        return
    lost, told = lost_names(pair.source, pair.target), names(pair.source)
    if lost and len(lost) == len(told):
        yield f"names are lost: {', '.join(lost)}"


def _completeness_faults(pair: Pair) -> Iterator[str]:
    """No text at all."""
    if not pair.target.strip():
        yield "there is no text"


def _log_ratio(pair: Pair) -> float:
    """The log ratio of the texts' lengths, without mathematics and placeholders."""
    made, given = (len(without_placeholders(text)) for text in (pair.target, pair.source))
    return math.log(max(made, 1) / max(given, 1))


GATES: dict[str, Gate] = {
    "complete": _completeness_faults,
    "numbers": _number_faults,
    "units": lambda pair: unit_faults(pair.source, pair.target),
    "latex": lambda pair: latex_faults(pair.source, pair.target),
    "placeholders": lambda pair: placeholder_faults(pair.source, pair.target),
    "names": _name_faults,
    "language": _language_faults,
    "length": _length_faults,
    "copied": _copy_faults,
    "sentences": _sentence_faults,
}
"""The gates by name."""
