"""Is a text in the language that it was asked for in?

Texts are judged in pieces, so that one which changes its language half-way counts half. Languages
that the identifier (py3langid) does not know, and texts too short to tell, are unknown: neither
faithful nor unfaithful.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from typing import Any

from opsd.languages import registry as languages
from opsd.types import UserError

PIECE = 60
"""Letters at which a piece is judged: on AfriMGSM's and MGSM's questions 93 % (Xhosa) to 100 % of
such pieces are told right, and most of an unknown language are told to be none."""

_CERTAIN = 0.5
_MARKUP = re.compile(r"</?\w+>|\\[A-Za-z]+|[^\w\\<]+|[\d_\\<]+")


def fidelity(text: str, asked: str) -> tuple[int, int]:
    """Letters of a text that are in the language with this ISO 639-3 code, and letters that are in
    any language that can be told; (0, 0) where the asked one is not known."""
    if asked not in known():
        return 0, 0
    spoken = identified(text)
    return spoken[asked], spoken.total()


def identified(text: str) -> Counter[str]:
    """Letters of a text by the language that they are in, of what can be told.

    >>> identified("The cat has four kittens, and each of them eats three small fishes every day.")
    Counter({'eng': 61})
    """
    letters: Counter[str] = Counter()
    for piece in _pieces(text):
        code, _ = _identifier().classify(piece)
        if code != "und":
            letters[_code(code)] += len(piece.replace(" ", ""))
    return letters


def readable(text: str) -> int:
    """Letters of a text that are judged at all, whether or not their language can then be told.

    >>> readable("Too short to tell.")
    0
    """
    return sum(len(piece.replace(" ", "")) for piece in _pieces(text))


@cache
def known() -> frozenset[str]:
    """ISO 639-3 codes of the languages that can be told from others."""
    return frozenset(map(_code, _identifier().labels))


def _pieces(text: str) -> Iterator[str]:
    """Words alone, without numbers and markup, at least `PIECE` letters at a time; a shorter rest
    is left out."""
    piece: list[str] = []
    letters = 0
    for word in _MARKUP.sub(" ", text).split():
        piece.append(word)
        letters += len(word)
        if letters >= PIECE:
            yield " ".join(piece)
            piece, letters = [], 0


@cache
def _code(code: str) -> str:
    """A code of the identifier's as ISO 639-3, where that is known."""
    try:
        return languages.resolve(code)
    except UserError:
        return code


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True, min_confidence=_CERTAIN)
