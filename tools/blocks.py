"""The blocks of code on a page of the documentation, as Markdown has them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

INDENTED = "indented"
"""The kind of an indented block: commands of a shell."""


@dataclass(frozen=True)
class Block:
    """A block of code, with the line that it begins on. A fenced one's `kind` is its language, or
    `text`; where a file's name follows, it is that file."""

    page: str
    line: int
    kind: str
    file: str | None
    text: str


def blocks(page: Path) -> Iterator[Block]:
    """A page's blocks in order, those within lists too."""
    for token in MarkdownIt("commonmark").parse(page.read_text("utf-8")):
        if token.type == "fence":
            kind, _, file = token.info.strip().partition(" ")
            yield Block(page.name, token.map[0] + 1, kind or "text", file or None, token.content)
        elif token.type == "code_block":
            yield Block(page.name, token.map[0] + 1, INDENTED, None, token.content)


def spans(page: Path) -> Iterator[str]:
    """A page's code within sentences, in order."""
    for token in MarkdownIt("commonmark").enable("table").parse(page.read_text("utf-8")):
        for child in token.children or ():
            if child.type == "code_inline":
                yield child.content
