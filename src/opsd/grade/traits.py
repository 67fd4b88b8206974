"""Traits of a text, whether it is right or not: repetition, reflection, overlap with another."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

from opsd.grade.ngrams import ngrams

_UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u3040-\u30ff\u4e00-\u9fff]")


def repetition(tokens: Sequence[object], n: int = 4) -> tuple[int, int]:
    """How many of a sequence's n-grams repeat an earlier one, and how many it has.

    >>> repetition("a b c d a b c d".split())
    (1, 5)
    """
    grams = ngrams(tokens, n)
    return len(grams) - len(set(grams)), len(grams)


def overlap(text: str, source: str, n: int = 4) -> tuple[int, int]:
    """How many of a text's word n-grams also occur in `source`, and how many it has: this measures
    what a student copies from its teacher's privileged text.

    >>> overlap("so 3 + 4 = 7 ok", "we add: 3 + 4 = 7")
    (2, 4)
    """
    mine, theirs = (ngrams(x.casefold().split(), n) for x in (text, source))
    theirs = set(theirs)
    return sum(gram in theirs for gram in mine), len(mine)


def count_markers(text: str, markers: tuple[str, ...]) -> int:
    """How often any of the words occurs in a text, ignoring case. Only whole words count: "check"
    is not in "checked". In scripts without spaces, any occurrence counts.

    >>> count_markers("Wait, is it likely? Unlikely: I checked.", ("wait", "likely", "check"))
    2
    """
    return len(_pattern(markers).findall(text)) if markers else 0


@cache
def _pattern(markers: tuple[str, ...]) -> re.Pattern[str]:
    longest_first = sorted(markers, key=len, reverse=True)
    parts = [
        re.escape(m) if _UNSPACED.search(m) else rf"(?<!\w){re.escape(m)}(?!\w)"
        for m in longest_first
    ]
    return re.compile("|".join(parts), re.IGNORECASE)
