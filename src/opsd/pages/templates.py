"""What pages share: templates that escape, and text that UTF-8 can encode."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from opsd.pages.visible import visible


def templates(folder: Path) -> Environment:
    """The templates of a folder, and those of all pages. All values are escaped."""
    environment = Environment(
        loader=FileSystemLoader([folder, Path(__file__).parent]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["visible"] = visible
    return environment


def writable(html: str) -> str:
    """A page without what UTF-8 cannot encode: a lone surrogate in a model's output."""
    return html.encode("utf-8", "backslashreplace").decode("utf-8")
