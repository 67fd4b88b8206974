"""The numbers in a text, in digits of any script or in English words, with all possible readings:
`1.234` may be about a thousand or about one, and a translation may write the other form."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction

from opsd.grade.scripts import (
    ARABIC_DECIMAL,
    ARABIC_GROUP,
    ascii_numerals,
    east_asian_numerals,
)
from opsd.grade.spoken import digits, spoken

_MARKS = f".,'{ARABIC_DECIMAL}{ARABIC_GROUP}"
_NUMBER = re.compile(rf"(?:(?<![\w.])\.)?\d+(?:[{_MARKS}]\d+| \d{{3}}(?!\d))*(?:e\d{{1,3}})?")
# Digits before a Chinese or Japanese power of ten: ten, hundred, thousand, ten thousand, ...
_EAST = "\u5341\u767e\u5343\u4e07\u842c\u5104\u4ebf\u5146"
_EAST_SCALED = re.compile(rf"\d[\d.,]*(?:[{_EAST}][\d.,]*)+")
_WORDS = re.compile(r"[A-Za-z]+")
_LONGEST_PHRASE = 7  # words of an English number

_ORDINALS = (
    "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth"
    " fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth twentieth"
)
_MONTHS = "january february march april may june july august september october november december"
_IMPLIED: dict[str, tuple[Fraction, ...]] = {
    "half": (Fraction(1, 2), Fraction(2), Fraction(50), Fraction(30)),
    "quarter": (Fraction(4), Fraction(1, 4), Fraction(25), Fraction(15)),
    **{"penny": (Fraction(1),), "nickel": (Fraction(5),), "dime": (Fraction(10),)},
    **dict.fromkeys(("quadruple", "quadruplet", "square"), (Fraction(4),)),
    **dict.fromkeys(("no", "none", "nobody", "nothing", "without"), (Fraction(0),)),
    **dict.fromkeys(("twice", "double", "couple", "pair", "both", "twin"), (Fraction(2),)),
    **dict.fromkeys(("triple", "thrice", "triplet"), (Fraction(3),)),
    "dozen": (Fraction(12),),
    "hundred": (Fraction(100),),
    "thousand": (Fraction(1000),),
    "million": (Fraction(10**6),),
    "decade": (Fraction(10),),
    "century": (Fraction(100),),
    "noon": (Fraction(12),),
    "midnight": (Fraction(0), Fraction(12), Fraction(24)),
    **{word: (Fraction(n), Fraction(1, n)) for n, word in enumerate(_ORDINALS.split(), 1)},
    **{month: (Fraction(n),) for n, month in enumerate(_MONTHS.split(), 1)},
}
"""The numbers that a translation may write in digits for an English word."""
_ENDINGS = re.compile(r"(?:ves|ies|s|d|ed)$")
_AFTERNOON = re.compile(r"(?<![a-z])p\.?m\b", re.IGNORECASE)
_HUNDREDTHS = re.compile(r"\bcents?\b|%|\bpercent", re.IGNORECASE)
_ARTICLE = re.compile(r"\ban?(?= (?:hundred|thousand|million|billion)\b)", re.IGNORECASE)


@dataclass(frozen=True)
class Number:
    """A number as written in a text, its possible values, and the values of its runs of digits."""

    text: str
    readings: frozenset[Fraction]
    parts: frozenset[Fraction]

    def within(self, values: frozenset[Fraction] | set[Fraction]) -> bool:
        """Whether one of its readings is among the values, or each of its parts is."""
        return bool(self.readings & values) or self.parts <= values


def numbers(text: str) -> list[Number]:
    r"""The numbers that a text contains in digits, in order.

    >>> [sorted(map(str, n.readings)) for n in numbers("1.234 kg, 50 thousand, \u09e7\u09e8")]
    [['1234', '617/500'], ['50', '50000'], ['12']]
    """
    plain = ascii_numerals(text).replace("{,}", ",")
    plain = digits(_EAST_SCALED.sub(lambda run: east_asian_numerals(run[0]), plain))
    return [_number(found[0]) for found in _NUMBER.finditer(plain)]


def values(found: list[Number]) -> set[Fraction]:
    """All readings and parts of numbers."""
    return {value for number in found for value in (*number.readings, *number.parts)}


def spelled_in_east(text: str) -> set[Fraction]:
    """The numbers that Chinese characters of a text may mean."""
    return values(numbers(east_asian_numerals(text)))


def spelled_in_english(text: str) -> set[Fraction]:
    """The numbers that a text spells in English words, and the parts of these numbers.

    >>> sorted(map(int, spelled_in_english("five eggs and twenty-two hens")))
    [2, 5, 20, 22]
    """
    words = _WORDS.findall(_ARTICLE.sub("one", text).lower())
    found: set[Fraction] = set()
    at = 0
    while at < len(words):
        length = next(
            (n for n in range(_LONGEST_PHRASE, 0, -1) if _phrase(words[at : at + n]) is not None), 0
        )
        if length:
            found.add(Fraction(_phrase(words[at : at + length]) or 0))
            # Its parts as well: "one hundred" may be a bill and its number.
            found.update(Fraction(n) for w in words[at : at + length] for n in _one(w))
        at += max(length, 1)
    return found


def allowed(source: str) -> set[Fraction]:
    """What a translation of an English text may write in digits: its numbers, those that its words
    spell or imply, and 1, which English writes as an article."""
    stated = values(numbers(source))
    worded = spelled_in_english(source)
    made = {Fraction(1), *stated, *worded, *_implied(source)}
    if "and a half" in source.lower():
        made |= {value + Fraction(1, 2) for value in {Fraction(1), *stated, *worded}}
    if "dozen" in source.lower():
        made |= {12 * value for value in stated | worded}
    if _AFTERNOON.search(source):
        made |= {Fraction(0), *(value + 12 for value in stated | worded if value <= 12)}  # 17:00
    if _HUNDREDTHS.search(source) or "$0." in source:
        made |= {value * scale for value in stated | worded for scale in (100, Fraction(1, 100))}
    return made


def _number(text: str) -> Number:
    body, _, power = text.partition("e")
    if body.startswith("."):  # .5 is not 5
        return Number(text, frozenset({Fraction(f"0{body}")}), frozenset({Fraction(body[1:])}))
    runs = re.split(r"\D", body)
    whole = Fraction(int("".join(runs)))
    readings = {whole}
    marks = re.findall(r"\D", body)
    if marks and marks[-1] not in (" ", ARABIC_GROUP):
        readings.add(Fraction(f"{''.join(runs[:-1])}.{runs[-1]}"))
    scaled = {value * 10 ** int(power) for value in readings} if power else set[Fraction]()
    return Number(text, frozenset(readings | scaled), frozenset(Fraction(int(run)) for run in runs))


def _phrase(words: list[str]) -> int | None:
    return spoken(" ".join(words)) if words else None


def _one(word: str) -> Iterator[int]:
    value = spoken(word)
    if value is not None:
        yield value
    elif word in ("hundred", "thousand", "million"):
        yield int(_IMPLIED[word][0])


def _implied(text: str, implied: Mapping[str, tuple[Fraction, ...]] = _IMPLIED) -> set[Fraction]:
    found: set[Fraction] = set()
    for word in set(_WORDS.findall(text.lower())):
        stem = "half" if word == "halves" else _ENDINGS.sub("", word)
        for form in {word, stem, word.removesuffix("s"), word.removesuffix("d")}:
            found.update(implied.get(form, ()))
    return found
