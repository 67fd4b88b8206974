"""A preview of a recipe's rows as one HTML file without any script."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from opsd.pages.html import render
from opsd.pages.visible import visible
from opsd.preview import words
from opsd.runs.files import write_atomically


def write_preview(content: Mapping[str, Any], output: Path) -> Path:
    """Writes the results of `opsd.preview.rows.preview` as one HTML file, and returns its path."""
    write_atomically(output, preview_page(content))
    return output


def preview_page(content: Mapping[str, Any]) -> str:
    """The page as HTML."""
    known = {"title": words.title(content), "content": content, "words": words}
    return render(Path(__file__).parent, "preview", filters={"token": _token}, **known)


def _token(text: str) -> Markup:
    """A token's text with its line breaks marked; a further token of a character is only a mark."""
    if not text:
        return Markup('<i class="part"></i>')
    return visible(text).replace("\n", Markup('<i class="break"></i>\n'))
