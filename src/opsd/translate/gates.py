"""Quality gates: what tells a translation that went wrong from one that may be right.

Each gate reads the English text and the translation, and says what is wrong, nothing where it finds
nothing. What is usual in a language (how long its texts are, whether it writes numbers as words)
was measured on published translations (`measured.yaml`); of a language that was not measured, wide
bounds hold.
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
"""Words in a row that both texts have: no translation of such a length is the English one."""
_COPIED_SHARE = 0.1
_FOREIGN_SHARE = 0.5


class Usual(NamedTuple):
    """What is usual in a language. `length` is the median of the natural log of the translation's
    characters over the English text's, `spread` its robust standard deviation; numbers of
    `digits_from` on are in digits where English has digits (None: any may be words); `sentences`
    says that it ends them as often as English does; `question_mark`, that its questions have one;
    `names`, that they are found again as English writes them. `taken_for` are the languages that
    the identifier takes it for."""

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
    """An English text and what is to be its translation into a language (ISO 639-3)."""

    source: str
    target: str
    language: str


@dataclass(frozen=True)
class Fault:
    """Which gate a translation does not pass, and why."""

    gate: str
    why: str

    def __str__(self) -> str:
        return f"{self.gate}: {self.why}"


Gate = Callable[[Pair], Iterator[str]]


@cache
def measured() -> Mapping[str, Any]:
    """What is usual in good translations into a language, by its code, as it was measured."""
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
    """What is wrong with a translation, by all gates but some; nothing where it passes.

    >>> judged(Pair("Juma has 4 eggs.", "Juma ana mayai 5.", "swa"))[0].why
    '5 is not in the English text (4)'
    """
    chosen = (name for name in GATES if name not in set(without))
    return [Fault(name, why) for name in chosen for why in GATES[name](pair)]


def _number_faults(pair: Pair) -> Iterator[str]:
    """Numbers in digits that the English text neither has nor says in words; and those of the
    English text that are missing, where the language does not write numbers as words."""
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
            yield f"missing of the English text: {', '.join(dict.fromkeys(n.text for n in lost))}"


def _language_faults(pair: Pair) -> Iterator[str]:
    """A script or a language that is not the one asked for: less than half of what can be told is
    in it, or nothing. Of a language that the identifier does not know: half is told to be one that
    it does know, and does not take the language for."""
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
        # One piece alone may be too short to be told: some are, in all languages.
        wrong = foreign > inside or (inside == 0 and judged_letters >= 2 * PIECE)
    else:
        wrong = foreign > _FOREIGN_SHARE * judged_letters
    if wrong:
        others = [code for code, _ in spoken.most_common() if code not in alike]
        yield f"not in {asked.name}, but in {others[0] if others else 'none that can be told'}"


def _copy_faults(pair: Pair) -> Iterator[str]:
    """Stretches of the English text that were left as they are."""
    same, grams = overlap(without_math(pair.target), without_math(pair.source), _COPIED_WORDS)
    if same > 1 and same > _COPIED_SHARE * grams:
        yield f"{same} of {grams} sequences of {_COPIED_WORDS} words are the English text's"


def _length_faults(pair: Pair) -> Iterator[str]:
    """A translation that is much shorter or longer than is usual in the language."""
    about = usual(pair.language)
    away = _log_ratio(pair) - about.length
    if abs(away) > _LENGTHS * about.spread:
        told = f"{len(pair.target)} characters for {len(pair.source)} English ones"
        yield f"{told}: {'longer' if away > 0 else 'shorter'} than is usual in {pair.language}"


_LENGTHS = 4.0
"""Standard deviations."""
_SHORTER = 0.6
"""Of what a sentence of average length is of a text, as a logarithm."""


def _sentence_faults(pair: Pair) -> Iterator[str]:
    """Sentences that were dropped: fewer than the English text has, in a text that is nearly as
    short as it would be without one, or that no longer asks the question."""
    about = usual(pair.language)
    given, made = len(split(pair.source)), len(split(pair.target))
    if not about.sentences or made >= given:
        return
    if about.question_mark and asks(pair.source) and not asks(pair.target):
        yield f"{made} sentences of {given}, and the question is not among them"
    elif _log_ratio(pair) - about.length < _SHORTER * math.log((given - 1) / given):
        yield f"{made} sentences of {given}"


def _name_faults(pair: Pair) -> Iterator[str]:
    """Proper names of which none is left, in languages that write them as English does: some are
    often others in a translation."""
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
    """Of the texts without what both have in common."""
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
