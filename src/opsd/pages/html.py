"""Pages that load nothing, and only run a script that their policy lists by its hash."""

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
"""The style sheet of all pages."""


def render(
    folder: Path,
    name: str,
    data: str = "",
    scripts: Sequence[str] = (),
    filters: Mapping[str, Callable[..., Any]] | None = None,
    figures: bool = False,
    **values: Any,
) -> str:
    """Renders the template `<name>.html.jinja` of a folder with the style of all pages, the
    additions in `<name>.css`, and the folder's `scripts`, in this order, which read `data` (JSON).
    `values` are escaped. With `figures`, inline styles are allowed: the figures' shapes have some,
    which no hash can list.
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
    """A source in a content security policy that allows exactly this text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
