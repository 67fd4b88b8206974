"""Is a text in the requested language?

Texts are judged in pieces, so that a text that changes its language half-way counts half. Languages
that the identifier (py3langid) does not know, and texts that are too short to identify, are
unknown: neither faithful nor unfaithful.
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
"""Letters in a piece that is judged: on AfriMGSM's and MGSM's questions 93 % (Xhosa) to 100 % of
such pieces are identified correctly, and most pieces in an unknown language as unknown."""

_CERTAIN = 0.5
_MARKUP = re.compile(r"</?\w+>|\\[A-Za-z]+|[^\w\\<]+|[\d_\\<]+")


def fidelity(text: str, asked: str) -> tuple[int, int]:
    """The number of a text's letters in the language with this ISO 639-3 code, and the number in
    any identified language; (0, 0) if the identifier does not know the requested language."""
    if asked not in known():
        return 0, 0
    spoken = identified(text)
    return spoken[asked], spoken.total()


def identified(text: str) -> Counter[str]:
    """The number of letters of a text by language, for the pieces that can be identified.

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
    """The number of a text's letters that are judged at all, identified or not.

    >>> readable("Too short to tell.")
    0
    """
    return sum(len(piece.replace(" ", "")) for piece in _pieces(text))


@cache
def known() -> frozenset[str]:
    """ISO 639-3 codes of the languages that the identifier knows."""
    return frozenset(map(_code, _identifier().labels))


def _pieces(text: str) -> Iterator[str]:
    """Yields the words of a text, without numbers and markup, in pieces of at least `PIECE`
    letters; a shorter rest is left out."""
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
    """One of the identifier's codes as ISO 639-3; unchanged if the language is not known."""
    try:
        return languages.resolve(code)
    except UserError:
        return code


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True, min_confidence=_CERTAIN)
