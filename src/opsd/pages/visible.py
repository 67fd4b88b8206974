"""Untrusted text on a page and in a terminal. A model's text is escaped like everything else; in
addition, characters that could reorder or hide text are written as their code points."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

from markupsafe import Markup, escape

# Joiners (U+200C, U+200D) are not included: several scripts cannot be written without them.
UNSEEN = (
    *((0x00, 0x08), (0x0B, 0x1F), (0x7F, 0x9F), (0xAD, 0xAD), (0x61C, 0x61C), (0x200B, 0x200B)),
    *((0x200E, 0x200F), (0x2028, 0x202E), (0x2060, 0x206F), (0xFEFF, 0xFEFF), (0xFFF9, 0xFFFB)),
    *((0xD800, 0xDFFF), (0xE0000, 0xE007F)),
)
"""First and last code points of characters that are invisible, or that move visible ones."""

HIDDEN = re.compile(f"[{''.join(f'{chr(a)}-{chr(b)}' for a, b in UNSEEN)}]")

_PICTURES = {code: 0x2400 + code for code in range(32) if chr(code) != "\n"} | {0x7F: 0x2421}


def plain(text: str) -> str:
    """Text without characters that act on a terminal: control codes become pictures, characters
    that are invisible or change the writing direction become their code points."""
    return HIDDEN.sub(lambda found: f"⟨{ord(found[0]):04X}⟩", text.translate(_PICTURES))


def visible(text: Any) -> Markup:
    """Text as HTML, with invisible characters, and those that reorder others, written out."""
    parts: list[Markup] = []
    end = 0
    text = str(text)
    for match in HIDDEN.finditer(text):
        code = ord(match.group())
        name = unicodedata.name(match.group(), "CONTROL CHARACTER")
        parts.append(escape(text[end : match.start()]))
        parts.append(
            Markup('<bdi class="unseen" title="{}">U+{}</bdi>').format(name, f"{code:04X}")
        )
        end = match.end()
    return Markup("").join([*parts, escape(text[end:])])
