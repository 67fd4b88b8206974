r"""Normalizes numbers as people write them, before two answers are compared.

Math-Verify reads only ASCII digits, takes `1 234` for 1 + 234 and `2 1/2` for 3/2, and knows no
decimal comma. This module prepares its input: `tidy` and `normalise` return the text that it reads.
`one_number` returns the number that a speaker reads in an answer, exactly, without a parser.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from typing import Literal, NamedTuple

from opsd.grade.scripts import (
    ARABIC_DECIMAL,
    ARABIC_GROUP,
    CURRENCY,
    ascii_numerals,
    east_asian_numerals,
)
from opsd.grade.spoken import TEXT, digits
from opsd.grade.words import bare_number
from opsd.languages.registry import codes, language

DecimalMark = Literal[".", ","]

_SPACING = re.compile(r"(?<!\\)\\[,;:> ]|\\q?quad\b|\\(?:thin|med|thick)space\b|(?<!\\)~|\s+")
# One backslash of a doubled one is dropped, unless it is a line break.
_DROPPED = re.compile(r"\\!\s*|\\displaystyle\b|(?<!\\)\\(?=\\(?:text|mathrm|mbox|[dtc]?frac)\b)")
# Between digits a currency sign stays: 5<euro>50 is neither 550 nor 5 and 50.
_CURRENCY = re.compile(rf"(?<!\d){CURRENCY}|{CURRENCY}(?!\d)")
_DELIMITED = re.compile(r"\\\((.*)\\\)|\\\[(.*)\\\]", re.DOTALL)
_FULL_STOPS = " .,;:\\\u0964\u1362\u1363\u3002\u06d4\u061b"
_COMMA_GROUPS = re.compile(r"(?<![\d.,])[1-9]\d{0,2}(?:,\d{3})+(?![\d,])")
_SPACE_GROUPS = re.compile(r"(?<![\d.,] )(?<![\d.,])[1-9]\d{0,2}(?: \d{3})+(?! ?[\d/,])")

_IN_TEXT = re.compile(rf"{TEXT}([^{{}}]*)\}}")

_NUMBER = re.compile(
    r"(?P<sign>[-+]?) ?(?:"
    r"(?P<decimal>(?:\d+(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d{1,3})?)"
    r"|(?:(?P<whole>\d+) )?(?P<top>\d+) ?/ ?(?P<bottom>\d+)"
    r"|(?P<whole_tex>\d+)? ?\\[dtc]?frac ?(?:\{ ?(?P<top_tex>\d+) ?\}|(?P<top_digit>\d)) ?"
    r"(?:\{ ?(?P<bottom_tex>\d+) ?\}|(?P<bottom_digit>\d))) ?(?P<percent>%)?"
)
_SEPARATED = re.compile(
    rf"(?P<sign>[-+]?) ?(?P<digits>\d*(?:[ ',.{ARABIC_DECIMAL}{ARABIC_GROUP}]\d+)*)"
    r"(?P<power>(?:[eE][-+]?\d{1,3})?)(?P<percent>%?)"
)
# Groups of three, or as in India of two and a last one of three; a group of zeros cannot be first.
_GROUPED = re.compile(r"[1-9]\d{0,2}(?: \d{3})+|[1-9]\d?(?: \d{2})+ \d{3}")


class PlainNumber(NamedTuple):
    """A number, whether it was written without a decimal point, and whether with a percent sign."""

    value: Fraction
    exact: bool
    percent: bool

    def __str__(self) -> str:
        return f"{self.value}{' %' if self.percent else ''}"


def tidy(text: str) -> str:
    r"""The same answer with ASCII numerals and signs, and without decoration.

    Numerals of other scripts become ASCII or LaTeX (`scripts.py`); currency signs, LaTeX spacing,
    mathematics delimiters and a final full stop are removed.

    >>> tidy("\uff11\uff12"), tidy(r"\$1{,}234."), tidy(r"\(-5\,000\)")
    ('12', '1,234', '-5 000')
    """
    text = ascii_numerals(text).replace("\\" + CURRENCY, CURRENCY)
    text = _CURRENCY.sub("", _DROPPED.sub("", text)).replace("{,}", ",").replace(r"\%", "%")
    text = _SPACING.sub(" ", text).strip()
    if delimited := _DELIMITED.fullmatch(text):
        text = delimited[1] or delimited[2] or ""
    return " ".join(text.split()).rstrip(_FULL_STOPS)


def normalise(tidied: str) -> str:
    r"""A tidied answer in Math-Verify's form: without thousands separators, with a decimal point.

    Commas and points are read as in English. In brackets `1,234` stays a pair, and `1,2` stays a
    pair anywhere.

    >>> normalise("1,234.5"), normalise("1 234"), normalise("(1,234)"), normalise("1,2")
    ('1234.5', '1234', '(1,234)', '1,2')
    """
    text = tidied.replace(ARABIC_DECIMAL, ".").replace(ARABIC_GROUP, ",")
    if not re.search(r"[(\[{]", text):
        text = _COMMA_GROUPS.sub(lambda match: match[0].replace(",", ""), text)
    return _SPACE_GROUPS.sub(lambda match: match[0].replace(" ", ""), text)


def decimal_mark(code: str) -> DecimalMark:
    """The decimal mark of a language; a point for a language without a description.

    >>> decimal_mark("fra"), decimal_mark("eng"), decimal_mark("tlh")
    (',', '.', '.')
    """
    return language(code).decimal_mark if code in codes() else "."


def readings(tidied: str, code: str) -> list[PlainNumber]:
    """The numbers that a tidied answer may mean: as read in the language, in digits or in words,
    then as read in English.

    >>> [str(number) for number in readings("1.234", "deu")]
    ['1234', '617/500']
    >>> [str(number) for number in readings("Kumi na mbili", "swa")]
    ['12']
    """
    wrapped = _IN_TEXT.fullmatch(tidied)
    spelled = language(code).spelled(wrapped[1] if wrapped else tidied) if code in codes() else None
    if spelled is not None:
        return [PlainNumber(Fraction(spelled), exact=True, percent=False)]
    return list(filter(None, (one_number(tidied, decimal_mark(code)), one_number(tidied))))


@lru_cache(maxsize=4096)  # every rollout of a group is compared with the same gold
def one_number(tidied: str, mark: DecimalMark | None = None) -> PlainNumber | None:
    """The number that a tidied answer is, apart from words around it; None if it is anything else.

    With a decimal mark it is read as in a language that has this mark: groups of three, or as in
    India, are joined whatever separates them, and one decimal mark may follow. A single comma or
    point that is not the mark separates groups if it can (`1.234`) and is decimal if not (`0.5`).
    Without a mark, commas separate groups and a point is decimal; else the result is None.

    >>> one_number("1.234,5 kg", ",").value, one_number("1.234", ",").value
    (Fraction(2469, 2), Fraction(1234, 1))
    >>> one_number("1,5", ".").value, one_number("1,5")
    (Fraction(3, 2), None)
    """
    number = bare_number(digits(east_asian_numerals(tidied)))
    if number is None:
        return None
    if mark is None:
        return plain_number(normalise(number))
    separated = _SEPARATED.fullmatch(number)
    if separated is None:
        return None
    plain = _without_separators(separated["digits"], mark)
    if plain is None:
        return None
    return plain_number(separated["sign"] + plain + separated["power"] + separated["percent"])


def _without_separators(digits: str, mark: DecimalMark) -> str | None:
    """Digits without group separators and with a decimal point; None if they are not a number."""
    groups, separators = re.split(r"\D", digits), re.findall(r"\D", digits)
    decimals = ""
    if separators and _last_is_decimal(groups, separators, mark):
        decimals = "." + groups.pop()
        separators.pop()
    if separators and (len(set(separators)) > 1 or not _GROUPED.fullmatch(" ".join(groups))):
        return None
    return "".join(groups) + decimals


def _last_is_decimal(groups: list[str], separators: list[str], mark: DecimalMark) -> bool:
    last = separators[-1]
    if last not in {",", "."}:
        return last == ARABIC_DECIMAL
    if len(separators) > 1:
        return last not in separators[:-1]
    return last == mark or not _GROUPED.fullmatch(" ".join(groups))


def plain_number(text: str) -> PlainNumber | None:
    r"""The number that a normalised answer is, or None if it is anything else.

    Integers, decimals (`1.5e3` too), fractions and mixed numbers, perhaps with a percent sign.

    >>> plain_number("1 1/2").value, plain_number(r"\frac{3}{2}").value
    (Fraction(3, 2), Fraction(3, 2))
    >>> plain_number(r"2\pi") is None
    True
    """
    match = _NUMBER.fullmatch(text)
    if match is None:
        return None
    decimal = match["decimal"]
    if decimal is not None:
        value = Fraction(decimal)
    else:
        whole = match["whole"] or match["whole_tex"] or "0"
        top = match["top"] or match["top_tex"] or match["top_digit"]
        bottom = match["bottom"] or match["bottom_tex"] or match["bottom_digit"]
        if int(bottom) == 0:
            return None
        value = int(whole) + Fraction(int(top), int(bottom))
    value = -value if match["sign"] == "-" else value
    return PlainNumber(value, "." not in (decimal or ""), match["percent"] is not None)


def same_number(one: PlainNumber, other: PlainNumber) -> bool:
    """Whether two numbers agree: exactly, or to six decimals if one is written as a decimal.

    The tolerance never exceeds a ten-thousandth of the smaller number, so that small numbers stay
    distinct. A percentage equals its hundredth. Compared with a number above 1, which is not a
    share, the percent sign may also be a unit: 50% is 0.5 and 50, and 1% is 0.01, but not 1.

    >>> third = plain_number("1/3")
    >>> same_number(plain_number("0.333333"), third), same_number(plain_number("0.33"), third)
    (True, False)
    """
    exact = one.exact and other.exact
    for x, y in _values(one, other):
        tolerance = 0 if exact else min(Fraction(1, 10**6), abs(x) / 10**4, abs(y) / 10**4)
        if abs(x - y) <= tolerance:
            return True
    return False


def _values(one: PlainNumber, other: PlainNumber) -> list[tuple[Fraction, Fraction]]:
    """Pairs of values; the numbers agree if any of the pairs does."""
    if one.percent == other.percent:
        whole = 100 if one.percent else 1
        return [(one.value / whole, other.value / whole)]
    share, plain = (one, other) if one.percent else (other, one)
    as_unit = [(share.value, plain.value)] if abs(plain.value) > 1 else []
    return [(share.value / 100, plain.value), *as_unit]
