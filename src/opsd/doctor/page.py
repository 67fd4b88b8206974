"""Writes the results of a check as one HTML file without any script."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from opsd.doctor import show
from opsd.pages.html import render
from opsd.runs.files import write_atomically


def write_page(content: Mapping[str, Any], output: Path) -> Path:
    """Writes what `opsd.doctor.check.check` found as one HTML file, and returns its path."""
    title = f"Check of {content['source']}"
    known = {"title": title, "content": content, "show": show}
    write_atomically(output, render(Path(__file__).parent, "doctor", **known))
    return output
