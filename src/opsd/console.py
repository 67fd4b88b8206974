"""Progress bars for people, on standard error: what goes on, how fast, how long still."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from copy import copy
from datetime import timedelta
from typing import Any, Protocol

from rich.cells import cell_len
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Column, Table
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


class _Done(ProgressColumn):
    """How many units are done: whole ones, of a step that is under way as well."""

    def render(self, task: Task) -> Text:
        return Text(f"{int(task.completed):,}/{int(task.total or 0):,}")


class _Left(ProgressColumn):
    """Time that is left at the pace from the beginning on: a step writes and learns, so that a
    pace of the last seconds says little."""

    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        seconds = remaining(task)
        told = "-:--:--" if seconds is None else str(timedelta(seconds=round(seconds)))
        return Text(f"{told} left", style="cyan")


def remaining(task: Task) -> float | None:
    """Seconds that a task has left at its pace since it began; None before it has moved."""
    moved = task.completed - task.fields.get("begun", 0)
    if not (task.elapsed and moved > 0 and task.total):
        return None
    return task.elapsed * max(task.total - task.completed, 0) / moved


SELDOM = 30.0
"""Seconds between two lines, where standard error is no terminal."""

_FOLDED = 12
"""Characters below which no text is folded within a word."""

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
        _Done(),
        _Rate(),
        TimeElapsedColumn(),
        _Left(),
        # What is said of the step gives way first where the terminal is narrow.
        TextColumn("{task.fields[note]}", table_column=Column(ratio=1, no_wrap=True)),
        expand=True,
        console=Console(stderr=True),
        disable=not sys.stderr.isatty() or bool(_speaker.get()),
    )


class Advance(Protocol):
    """Told of units that are done and tokens that were written since, and of what is to be said of
    them from now on."""

    def __call__(self, done: int = 0, tokens: int = 0, told: str | None = None, /) -> None: ...


@contextmanager
def counting(description: str, total: int, unit: str) -> Iterator[Advance]:
    """A bar, or where nobody is looking a line every `SELDOM` seconds; yields the function that
    advances it."""
    with bar() as progress:
        task = progress.add_task(description, total=total, unit=unit, note="")
        begun = spoken = time.monotonic()
        written, about = 0, ""

        def advance(done: int = 0, tokens: int = 0, told: str | None = None) -> None:
            nonlocal written, about, spoken
            written += tokens
            about = about if told is None else told
            now = time.monotonic()
            rate = f"{written:,} tokens, {written / max(now - begun, 1e-3):,.0f}/s"
            note = "  ".join(filter(None, (about, rate if written else "")))
            progress.update(task, advance=done, note=note)
            if progress.disable and now - spoken > SELDOM:
                spoken = now
                (own,) = progress.tasks
                left = remaining(own)
                told_left = "" if left is None else f", {timedelta(seconds=round(left))} left"
                log(f"{description}  {int(own.completed):,}/{total:,}{told_left}  {note}".rstrip())

        yield advance


def in_width(table: Table, width: int, keys: int = 1) -> Iterator[Table]:
    """The table; where it is wider than so many characters though its texts are folded, its columns
    in several tables, each of which begins with the first `keys` columns. Cells are texts."""
    first = table.columns[:keys]
    chosen, title = [*first], table.title
    for column in table.columns[keys:]:
        if len(chosen) > keys and sum(map(_least, [*chosen, column])) > width:
            yield _of_columns(table, chosen, title)
            chosen, title = [*first], None
        chosen.append(column)
    yield _of_columns(table, chosen, title)


def _least(column: Column) -> int:
    """The least width of a column, with the space beside it."""
    texts = [str(column.header), *map(str, column.cells)]
    if not column.no_wrap:
        texts = [word for text in texts for word in text.split()]
        texts = [text if column.overflow != "fold" else text[:_FOLDED] for text in texts]
    return 3 + max(column.min_width or 0, *map(cell_len, texts), 0)


def _of_columns(table: Table, columns: Sequence[Column], title: Any) -> Table:
    part = copy(table)
    part.columns, part.title = list(columns), title
    return part


def log(text: str) -> None:
    """A line for people: standard error, so that `--json` keeps standard output to itself."""
    name = _speaker.get()
    print(cleaned(f"{name}: {text}" if name else text), file=sys.stderr, flush=True)
