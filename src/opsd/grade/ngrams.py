"""n-grams: the unit in which repetition, overlap and quotation are counted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def ngrams(tokens: Sequence[T], n: int) -> list[tuple[T, ...]]:
    """All n-grams of a sequence, in order; empty for a sequence shorter than n.

    >>> ngrams("abc", 2)
    [('a', 'b'), ('b', 'c')]
    """
    return [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
