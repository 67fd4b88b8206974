"""The code blocks on a page of the documentation, as Markdown defines them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

INDENTED = "indented"
"""The kind of an indented block: shell commands."""


@dataclass(frozen=True)
class Block:
    """A code block, with its first line number. The `kind` of a fenced block is its language, or
    `text`; if a file name follows, the block is that file."""

    page: str
    line: int
    kind: str
    file: str | None
    text: str


def blocks(page: Path) -> Iterator[Block]:
    """The blocks of a page in order, including those within lists."""
    for token in MarkdownIt("commonmark").parse(page.read_text("utf-8")):
        if token.type == "fence":
            kind, _, file = token.info.strip().partition(" ")
            yield Block(page.name, token.map[0] + 1, kind or "text", file or None, token.content)
        elif token.type == "code_block":
            yield Block(page.name, token.map[0] + 1, INDENTED, None, token.content)


def spans(page: Path) -> Iterator[str]:
    """The inline code of a page, in order."""
    for token in MarkdownIt("commonmark").enable("table").parse(page.read_text("utf-8")):
        for child in token.children or ():
            if child.type == "code_inline":
                yield child.content
