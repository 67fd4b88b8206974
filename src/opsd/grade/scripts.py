r"""The numerals of other scripts as ASCII, a character or a run of characters at a time."""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction
from functools import lru_cache

CURRENCY = "\u00a4"  # stands for every currency sign
ARABIC_DECIMAL, ARABIC_GROUP = "\u066b", "\u066c"

# Hyphens, dashes and minus signs that stand for "-": U+2010 to U+2015, minus, small hyphen-minus.
_MINUS = frozenset(map(chr, [*range(0x2010, 0x2016), 0x2212, 0xFE58, 0xFE63]))
_ALIKE = {
    **dict.fromkeys(_MINUS, "-"),
    **dict.fromkeys("\u2018\u2019\u02bc", "'"),
    "\u066a": "%",  # Arabic percent sign
    "\u060c": ",",  # Arabic comma
    "\u1361": " ",  # Ethiopic wordspace
    "\u2044": "/",
    "\u2215": "/",
    "\u00b0": r"^\circ",
    "\u00b1": r"\pm ",
    "\u00b7": r"\cdot ",
    "\u00d7": r"\times ",
    "\u2208": r"\in ",
    "\u221e": r"\infty ",
    "\u2248": r"\approx ",
    "\u2264": r"\le ",
    "\u2265": r"\ge ",
    "$": CURRENCY,
}
_ROOT = re.compile(r"\u221a ?(?:(\d+|[a-zA-Z])|\(([^()]*)\))")
_MINUS_ABOVE = "\u207b"
_SUPERSCRIPTS = "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079"
_SUPERSCRIPT_RUN = re.compile(f"{_MINUS_ABOVE}?[{_SUPERSCRIPTS}]+")

_ETHIOPIC_RUN = re.compile(r"(?<!\d)[\u1369-\u137c]+(?![\d\u1369-\u137c])")
_ETHIOPIC_SECTION = re.compile(
    "(?:([\u1372-\u137a]?)([\u1369-\u1371]?)(\u137b))?([\u1372-\u137a]?)([\u1369-\u1371]?)"
)
_ETHIOPIC_TEN_THOUSAND = "\u137c"

_LONGEST_RUN = 40  # characters; no sensible number is longer
_EAST_DIGITS = "\u3007\u96f6\u4e00\u4e8c\u4e09\u56db\u4e94\u516d\u4e03\u516b\u4e5d"
# Trillion, hundred million, ten thousand (both in two forms), thousand, hundred, ten: each with its
# value and the limit of its multiplier.
_EAST_POWERS = (
    ("\u5146", 10**12, 10**4),
    ("\u5104", 10**8, 10**4),
    ("\u4ebf", 10**8, 10**4),
    ("\u842c", 10**4, 10**4),
    ("\u4e07", 10**4, 10**4),
    ("\u5343", 1000, 10),
    ("\u767e", 100, 10),
    ("\u5341", 10, 10),
)
_EAST_SIGNS = frozenset(_EAST_DIGITS).union(sign for sign, _, _ in _EAST_POWERS)
_EAST_RUN = re.compile(rf"[\d.,{''.join(sorted(_EAST_SIGNS))}]+")


@lru_cache(maxsize=4096)
def _plain_character(character: str) -> str:
    """ASCII for a digit, a fraction, a full-width form or a sign; "" for invisible characters."""
    if character in _ALIKE:
        return _ALIKE[character]
    if "\uff01" <= character <= "\uff5e":  # full-width ASCII, at a constant distance
        return _plain_character(chr(ord(character) - 0xFEE0))
    digit = unicodedata.decimal(character, None)
    if digit is not None:
        return str(digit)
    if unicodedata.decomposition(character).startswith("<fraction>"):
        return " " + unicodedata.normalize("NFKD", character).replace("\u2044", "/")
    category = unicodedata.category(character)
    if category == "Cf":
        return ""
    if category == "Sc":
        return CURRENCY
    return " " if category == "Zs" else character


def ascii_numerals(text: str) -> str:
    r"""The text with its numerals, signs and spaces in ASCII, and one sign for all currencies.

    This covers digits of every decimal system, full-width forms, minus signs, vulgar fractions,
    superscripts, the degree sign and Ethiopic numbers. Mathematical signs that a parser does not
    know become TeX. Invisible characters are removed. Only the Arabic decimal and group separators
    stay, since no other marks are unambiguous.

    >>> ascii_numerals("\uff11\uff12"), ascii_numerals("\u22125\u00bd"), ascii_numerals("x\u00b2")
    ('12', '-5 1/2', 'x^{2}')
    >>> ascii_numerals("\u221a2"), ascii_numerals("3\u00d710\u207b\u2078")
    ('\\sqrt{2}', '3\\times 10^{-8}')
    >>> ascii_numerals("\u136a\u137b\u1375\u136d")
    '245'
    """
    if text.isascii():
        return text.replace("$", CURRENCY)
    text = "".join(map(_plain_character, text))
    text = _SUPERSCRIPT_RUN.sub(_caret, text)
    text = _ROOT.sub(lambda root: rf"\sqrt{{{root[1] or root[2]}}}", text)
    return _ETHIOPIC_RUN.sub(_ethiopic, text)


def _caret(run: re.Match[str]) -> str:
    digits = (str(_SUPERSCRIPTS.find(c)) if c != _MINUS_ABOVE else "-" for c in run[0])
    return "^{" + "".join(digits) + "}"


def _ethiopic(run: re.Match[str]) -> str:
    """The value of a well-formed Ethiopic number, or the run itself.

    Sections of at most 9999 stand before the sign for ten thousand, the most significant first.
    A multiplier of one is omitted before the sign for a hundred, and at the number's beginning.
    """
    if len(run[0]) > _LONGEST_RUN:
        return run[0]
    total = 0
    for place, section in enumerate(run[0].split(_ETHIOPIC_TEN_THOUSAND)):
        match = _ETHIOPIC_SECTION.fullmatch(section)
        if match is None:
            return run[0]
        *above, hundred, tens, ones = (
            int(unicodedata.numeric(c)) if c else 0 for c in match.groups("")
        )
        value = (sum(above) or 1) * hundred + tens + ones
        leading = place == 0 and not section
        total = total * 10_000 + (1 if leading else value)
    return str(total)


def east_asian_numerals(text: str) -> str:
    """The text with Chinese and Japanese numbers in ASCII, including those mixed with digits.

    >>> east_asian_numerals("\u767e\u4e8c\u5341\u4e09"), east_asian_numerals("1\u4e072\u5343")
    ('123', '12000')
    """
    return text if text.isascii() else _EAST_RUN.sub(_east_asian, text)


def _east_asian(run: re.Match[str]) -> str:
    if len(run[0]) > _LONGEST_RUN or not _EAST_SIGNS.intersection(run[0]):
        return run[0]
    if all(character in _EAST_DIGITS for character in run[0]):
        return "".join(str(int(unicodedata.numeric(character))) for character in run[0])
    try:
        value = _east_asian_value(run[0])
    except ValueError:
        return run[0]
    return str(value) if value.denominator == 1 else run[0]


def _east_asian_value(text: str) -> Fraction:
    """The value of a run of characters; ValueError if it is not a number.

    A lone digit after a hundred or more is such a case, since it is ambiguous: it counts the next
    lower power in speech (150), and ones in writing (105).
    """
    for sign, power, limit in _EAST_POWERS:
        above, found, below = text.partition(sign)
        if found:
            count = _east_asian_value(above) if above else Fraction(1)
            rest = _east_asian_value(below) if below else Fraction(0)
            if not 0 < count < limit or rest >= power or (len(below) == 1 and power > 10):
                raise ValueError(text)
            return count * power + rest
    text = text.lstrip(_EAST_DIGITS[:2]) or "0"
    return Fraction(int(unicodedata.numeric(text)) if text in tuple(_EAST_DIGITS) else text)
