r"""The letter of an option, however it is written: `B`, `(B)`, `Option B`, `\textbf{(B)}\ 4`."""

from __future__ import annotations

import re

OPEN, CLOSE = r"[\s*_$({\[\"']*+", r"[\s*_$)}\]\"']*+"
TEX = re.compile(r"\\(?:text|textbf|textrm|mathrm|mathbf|rm|bf)\b|\\[()\[\]]|\\(?=\s)")
# A letter alone, perhaps called an answer or an option, perhaps followed by its option's text.
_LETTER = re.compile(
    rf"{OPEN}(?:(?i:(?:final\s+)?answer|option|choice)[\s:*_]*+)?{OPEN}"
    rf"(?P<letter>[A-Za-z])(?![\w'\u2019]){CLOSE}"
    rf"(?:(?:[.:]{CLOSE}|(?<=[)\]}}])|(?<=[)\]}}]\s))(?P<text>.*))?",
    re.DOTALL,
)


def lettered(text: str) -> tuple[str, str] | None:
    r"""The letter that a text consists of, as a capital letter, and the text that follows it; None
    for any other text.

    >>> lettered("Option b"), lettered(r"\textbf{(B)}\ 4"), lettered("Blue")
    (('B', ''), ('B', '4'), None)
    """
    found = _LETTER.fullmatch(TEX.sub("", text).strip())
    return found and (found["letter"].upper(), found["text"] or "")
