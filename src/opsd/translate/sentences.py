"""Splits texts into sentences, in scripts that mark their ends."""

from __future__ import annotations

import re

_END = re.compile(
    "(?:[.!?\u2026]+[\"'\u201d\u2019)\\]]*(?=\\s|$|[A-Z]))|[\u3002\uff01\uff1f\u0964\u0965\u1362\u1367\u061f\u06d4]+[\u300d\u300f\u201d]?"
)
_ABBREVIATED = re.compile(
    r"(?:\b(?:[Mm]r|[Mm]rs|[Mm]s|[Dd]r|St|Jr|Sr|vs|etc|approx|Rs|Sh|KSh|Sra|Dra|Bw|bzw|usw)"
    r"|(?<![\w.])[A-Z]|\b[a-zA-Z]\.[a-zA-Z])$"
)
_MARK = re.compile("[?\uff1f\u061f\u1367\u037e]")


def split(text: str) -> list[str]:
    """The sentences of a text, each with the white space that follows it; together they are the
    text. Lines end sentences, too.

    >>> split("Mr. Li has 3.5 kg. How much is left?\\nNothing.")
    ['Mr. Li has 3.5 kg. ', 'How much is left?\\n', 'Nothing.']
    """
    ends = [found.end() for found in _END.finditer(text) if not _abbreviated(text, found)]
    ends += [found.end() for found in re.finditer(r"\n", text)]
    pieces: list[str] = []
    begin = 0
    for end in [*sorted(set(ends)), len(text)]:
        piece = text[begin:end]
        if not any(c.isalnum() for c in piece) and pieces:
            pieces[-1] += piece
        elif piece:
            spaces = re.match(r"\s*", piece)
            assert spaces is not None  # it also matches an empty text
            if pieces and spaces[0]:
                pieces[-1] += spaces[0]
                piece = piece[spaces.end() :]
            pieces.append(piece)
        begin = end
    return pieces


def asks(text: str) -> bool:
    """Whether a text contains a question mark of any script."""
    return _MARK.search(text) is not None


def _abbreviated(text: str, end: re.Match[str]) -> bool:
    return end[0] == "." and _ABBREVIATED.search(text[: end.start()]) is not None
