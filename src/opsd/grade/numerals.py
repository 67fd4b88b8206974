r"""Numbers as people write them, made plain before two answers are compared.

Math-Verify reads only ASCII digits, takes `1 234` for 1 + 234 and `2 1/2` for 3/2, and drops a
single-letter variable as if it were a unit (`5t`, `2h`). `normalise` and `plain_number` stand in
front of it: every answer that is just a number is decided here, exactly, without a parser.
"""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

# Hyphens, dashes and minus signs that stand for "-": U+2010 to U+2015, minus, small hyphen-minus.
_MINUS = frozenset(map(chr, [*range(0x2010, 0x2016), 0x2212, 0xFE58, 0xFE63]))
_ARABIC_SEPARATORS = {"\u066a": "%", "\u066b": ".", "\u066c": ","}
_SUPERSCRIPTS = "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079"

_SPACING = re.compile(r"(?<!\\)\\[,;:> ]|\\q?quad\b|\\(?:thin|med|thick)space\b|(?<!\\)~|\s+")
_DROPPED = re.compile(r"\\!|\\displaystyle\b|\\?\$")
_DELIMITED = re.compile(r"\\\((.*)\\\)|\\\[(.*)\\\]", re.DOTALL)
_COMMA_GROUPS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")
_SPACE_GROUPS = re.compile(r"(?<![\d.,] )(?<![\d.,])\d{1,3}(?: \d{3})+(?! ?[\d/,])")
_SUPERSCRIPT_RUN = re.compile(f"[{_SUPERSCRIPTS}]+")

# Words that multiply: `5 million` is not 5.
_FACTOR = r"(?:pi|hundred|thousand|million|billion|trillion|dozen|factorial|squared|cubed)\b"
# A character of a word in any script: not ASCII punctuation, not an arrow, not an operator.
_LETTER = r"[^\d\s!-/:-@\[-`{-~\xb1\xb7\xd7\xf7\u2190-\u22ff]"
_POWER = r"(?:\^(?:\d|\{\d\}))?"
_TEXT = r"\\(?:text(?:rm|bf|it|normal)?|mathrm|mathbf|mbox|operatorname)"
_UNIT_TEXT = re.compile(
    rf"(?<=[\d}}%]) ?{_TEXT} ?\{{(?! *{_FACTOR})[^{{}}\d]*\}}{_POWER}$", re.IGNORECASE
)
_DEGREES = re.compile(r"(?<=\d) ?\^ ?(?:\\circ|\{ ?\\circ ?\})$")
_NUMBER = re.compile(
    r"(?P<sign>[-+]?) ?(?:"
    r"(?P<decimal>\d+(?:\.\d+)?|\.\d+)"
    r"|(?:(?P<whole>\d+) )?(?P<top>\d+) ?/ ?(?P<bottom>\d+)"
    r"|(?P<whole_tex>\d+)? ?\\[dtc]?frac ?(?:"
    r"\{ ?(?P<top_tex>\d+) ?\} ?\{ ?(?P<bottom_tex>\d+) ?\}|(?P<top_digit>\d)(?P<bottom_digit>\d))"
    rf")(?P<percent> ?%)?(?: (?!{_FACTOR}){_LETTER}{{2,}}(?: {_LETTER}+)*{_POWER})?",
    re.IGNORECASE,
)
_SPELLED = re.compile(rf"{_TEXT} ?\{{(?P<wrapped>[^{{}}\d]+)\}}|(?P<bare>(?:{_LETTER}| )*)")


class PlainNumber(NamedTuple):
    """A number, whether it was written without a decimal point, and whether with a percent sign."""

    value: Fraction
    exact: bool
    percent: bool


@lru_cache(maxsize=4096)
def _plain_character(character: str) -> str:
    """ASCII for a digit, full-width form, minus or space; nothing for invisible and currency."""
    if character in _MINUS:
        return "-"
    if character in _ARABIC_SEPARATORS:
        return _ARABIC_SEPARATORS[character]
    if "\uff01" <= character <= "\uff5e":  # full-width ASCII, at a constant distance
        return chr(ord(character) - 0xFEE0)
    digit = unicodedata.decimal(character, None)
    if digit is not None:
        return str(digit)
    category = unicodedata.category(character)
    if category == "Cf" or (category == "Sc" and character != "$"):
        return ""
    return " " if category == "Zs" else character


def normalise(text: str) -> str:
    r"""The same answer with ASCII digits and signs, and without decoration.

    Digits of every decimal system, full-width forms, minus signs, superscripts and the degree
    sign become ASCII or LaTeX; currency signs, `$`, LaTeX spacing and a final full stop go;
    thousands are closed up (`1,234`, `1{,}234`, `1\,234`). In brackets `1,234` stays a pair.

    >>> normalise("\uff11\uff12"), normalise(r"\$1{,}234."), normalise("\u22125")
    ('12', '1234', '-5')
    >>> normalise("(1,234)")
    '(1,234)'
    """
    if not text.isascii():
        text = "".join(map(_plain_character, text)).replace("\u00b0", r"^\circ")
        text = _SUPERSCRIPT_RUN.sub(_caret, text)
    text = _DROPPED.sub("", text).replace("{,}", ",").replace(r"\%", "%")
    text = _SPACING.sub(" ", text).strip()
    if delimited := _DELIMITED.fullmatch(text):
        text = delimited[1] or delimited[2] or ""
    text = " ".join(text.split()).rstrip(" .,;:\\")
    if not re.search(r"[(\[{]", text):
        text = _COMMA_GROUPS.sub(lambda match: match[0].replace(",", ""), text)
    return _SPACE_GROUPS.sub(lambda match: match[0].replace(" ", ""), text)


def _caret(run: re.Match[str]) -> str:
    return "^{" + "".join(str(_SUPERSCRIPTS.index(character)) for character in run[0]) + "}"


def drop_unit(text: str) -> str:
    r"""A normalised answer without a unit at its end: `\text{ km}`, `\mathrm{cm}^2`, degrees.

    Only text marked as text goes, so that a variable is never taken for a unit.

    >>> drop_unit(r"12\text{ km}"), drop_unit(r"90^\circ"), drop_unit("5t")
    ('12', '90', '5t')
    """
    return _DEGREES.sub("", _UNIT_TEXT.sub("", text))


def plain_number(text: str) -> PlainNumber | None:
    r"""The number that a normalised answer is, or None where it is anything else.

    Integers, decimals, fractions and mixed numbers, perhaps with a percent sign or, after a
    space, a word or more of unit in any language (`12 birr`; not `5 million`, not `5 x`).

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


def same_number(answer: PlainNumber, gold: PlainNumber) -> bool:
    """Whether two numbers agree: exactly, or to six decimals where one is written as a decimal.

    The tolerance never exceeds a ten-thousandth of the gold, so that small numbers stay apart.
    A percentage agrees with its number and with its hundredth: 50% is 50 and is 0.5.

    >>> third = plain_number("1/3")
    >>> same_number(plain_number("0.333333"), third), same_number(plain_number("0.33"), third)
    (True, False)
    """
    exact = answer.exact and gold.exact
    tolerance = 0 if exact else min(Fraction(1, 10**6), abs(gold.value) / 10**4)
    differences = [answer.value - gold.value]
    if answer.percent and not gold.percent:
        differences.append(answer.value / 100 - gold.value)
    if gold.percent and not answer.percent:
        differences.append(answer.value - gold.value / 100)
    return any(abs(difference) <= tolerance for difference in differences)


def juxtaposed(text: str) -> bool:
    """Whether numbers stand side by side with only a space between, which means nothing certain.

    Math-Verify adds them, and so takes `1 2` for 3.

    >>> juxtaposed("1 2"), juxtaposed("1, 2")
    (True, False)
    """
    return re.search(r"\d \d", text) is not None


def spelling(text: str) -> str | None:
    r"""The word or phrase that a normalised answer is, case folded; None for mathematics.

    A parser reads a word as a product of letters, and so takes `listen` for `silent`. Three
    letters in a row, or `\text{}` around it all, make a word.

    >>> spelling("Monday"), spelling(r"\text{no}"), spelling("xy")
    ('monday', 'no', None)
    """
    match = _SPELLED.fullmatch(text)
    if match is None:
        return None
    words = match["wrapped"] or match["bare"]
    if match["bare"] and max(map(len, words.split()), default=0) < 3:
        return None
    return " ".join(words.casefold().split()) or None
