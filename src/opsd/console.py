"""Progress bars for people, on standard error: what goes on, how fast, how long still."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

from opsd.credentials import cleaned


class _Rate(ProgressColumn):
    """Completed units per second, or seconds per unit where that is the slower of the two."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        if not speed:
            return Text("-/s", style="dim")
        unit = task.fields.get("unit", "")
        text = f"{speed:.1f} {unit}/s" if speed >= 1 else f"{1 / speed:.1f} s/{unit}"
        return Text(text, style="dim")


_speaker: ContextVar[str] = ContextVar("speaker", default="")


@contextmanager
def speaking(name: str) -> Iterator[None]:
    """What is logged in the block, in this thread, begins with a name; with several who speak there
    are lines and no bars."""
    token = _speaker.set(name)
    try:
        yield
    finally:
        _speaker.reset(token)


def bar() -> Progress:
    """A progress display with rate and remaining time; silent where nobody is looking."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=12),
        MofNCompleteColumn(),
        _Rate(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        # What is said of the step gives way first where the terminal is narrow.
        TextColumn("{task.fields[note]}", table_column=Column(ratio=1, no_wrap=True)),
        expand=True,
        console=Console(stderr=True),
        disable=not sys.stderr.isatty() or bool(_speaker.get()),
    )


@contextmanager
def counting(description: str, total: int, unit: str) -> Iterator[Any]:
    """A bar; yields the function that advances it by n units, which may have taken tokens."""
    with bar() as progress:
        task = progress.add_task(description, total=total, unit=unit, note="")

        begun, written = time.monotonic(), 0

        def advance(n: int = 1, tokens: int = 0) -> None:
            nonlocal written
            written += tokens
            rate = written / max(time.monotonic() - begun, 1e-3)
            note = f"{written:,} tokens, {rate:,.0f}/s" if written else ""
            progress.update(task, advance=n, note=note)

        yield advance


def log(text: str) -> None:
    """A line for people: standard error, so that `--json` keeps standard output to itself."""
    name = _speaker.get()
    print(cleaned(f"{name}: {text}" if name else text), file=sys.stderr, flush=True)
