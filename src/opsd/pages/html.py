"""Pages that load nothing, and run nothing but a script that their policy names by its hash."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from opsd.pages.templates import templates, writable
from opsd.runs.environment import VERSION

STYLE = Path(__file__).with_name("page.css")
"""What all pages look like."""


def render(
    folder: Path,
    name: str,
    data: str = "",
    scripts: Sequence[str] = (),
    filters: Mapping[str, Callable[..., Any]] | None = None,
    figures: bool = False,
    **values: Any,
) -> str:
    """The template `<name>.html.jinja` of a folder with the style of all pages, what `<name>.css`
    adds to it, and the folder's `scripts`, in this order, on `data`, which is JSON. Everything else
    in `values` is escaped. The shapes of `figures` have styles of their own, which no hash names.
    """
    environment = templates(folder)
    environment.filters |= filters or {}
    added = folder / f"{name}.css"
    style = STYLE.read_text("utf-8") + (added.read_text("utf-8") if added.exists() else "")
    script = "".join((folder / f"{script}.js").read_text("utf-8") for script in scripts)
    inline = "'unsafe-inline'"
    policy = [
        "default-src 'none'",
        f"style-src {inline if figures else _named(style)}",
        "base-uri 'none'",
    ]
    policy += ["form-action 'none'", *([f"script-src {_named(script)}"] if script else [])]
    html = environment.get_template(f"{name}.html.jinja").render(
        policy="; ".join(policy),
        style=Markup(style),
        script=Markup(script),
        data=Markup(data),
        version=VERSION,
        **values,
    )
    return writable(html)


def _named(text: str) -> str:
    """A source of a content security policy: exactly this text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
