"""Expressions from which Math-Verify would drop information: they are judged as written."""

from __future__ import annotations

import re
from typing import NamedTuple

from opsd.grade.numerals import one_number
from opsd.grade.spoken import spoken

_OPENING, _CLOSING = re.compile(r"^\\?[(\[{] ?"), re.compile(r" ?\\?[)\]}]$")
_BETWEEN = re.compile(r" ?(?:[,;]|(?:[,;] ?)?(?:\\text ?\{ ?)?\b(?:and|or)\b ?\}?) ?")
_BASED = re.compile(
    r"(?:(?P<digits>\d[\dA-F]*)|\((?P<inner>\d[\dA-F]*)\)) ?"
    r"_ ?\{? ?(?:\\text ?\{)?(?:(?P<base>\d+)|(?P<word>[a-z]+)) ?\}*"
)
_SUBSCRIPTED = re.compile(r"(?<![\w\\])(?:\d[\dA-F]*|\(\d[\dA-F]*\)) ?_")
_ADDED = re.compile(r"(?<![\w,.^\\])(?<![a-zA-Z_^] )\d(?:[\d.,]*\d)? \d")


def juxtaposed(text: str) -> bool:
    r"""Whether numbers stand next to each other with only a space between, which is ambiguous.

    Math-Verify adds them, and so takes `1 2` for 3. The arguments of a TeX command do not count.

    >>> juxtaposed("1 2"), juxtaposed("1, 2"), juxtaposed(r"\frac 1 2"), juxtaposed(r"\log_2 8")
    (True, False, False, False)
    """
    return _ADDED.search(text) is not None


def repeats(text: str) -> int:
    """How many elements of a normalised list repeat an earlier one. A parser turns lists into sets,
    and so takes `5, 5` for 5.

    >>> repeats("5, 5"), repeats("(1/2; 0.5)"), repeats("x = 1 or x = 2"), repeats("5")
    (1, 1, 0, 0)
    """
    inner = _OPENING.sub("", _CLOSING.sub("", text))
    elements = [element.rpartition("=")[2].strip() for element in _BETWEEN.split(inner)]
    values = [one_number(element) for element in elements]
    known = {e if v is None else v.value for e, v in zip(elements, values, strict=True) if e}
    return sum(map(bool, elements)) - len(known)


class Based(NamedTuple):
    """A number's digits, and the base that a subscript names."""

    digits: str
    base: str


def based(text: str) -> Based | None:
    r"""A normalised number that is written with its base, or None.

    >>> based(r"(1A)_{16}"), based(r"101_{\text{two}}"), based("52")
    (Based(digits='1A', base='16'), Based(digits='101', base='2'), None)
    """
    match = _BASED.fullmatch(text)
    if match is None:
        return None
    number = spoken(match["word"]) if match["word"] else match["base"]
    return Based(match["digits"] or match["inner"], str(number or match["word"]))


def subscripted(text: str) -> bool:
    r"""Whether digits have a subscript, which a parser would drop: `52_8 + 1`.

    >>> subscripted("52_8 + 1"), subscripted(r"\log_2 8 + x_1")
    (True, False)
    """
    return _SUBSCRIPTED.search(text) is not None
