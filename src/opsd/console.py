"""Progress bars and log lines on standard error: what is running, how fast, and for how long."""

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
    """Completed units per second, or seconds per unit if less than one is completed per second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        if not speed:
            return Text("-/s", style="dim")
        unit = task.fields.get("unit", "")
        text = f"{speed:.1f} {unit}/s" if speed >= 1 else f"{1 / speed:.1f} s/{unit}"
        return Text(text, style="dim")


class _Done(ProgressColumn):
    """How many units are done, rounded down: a step in progress counts as not done."""

    def render(self, task: Task) -> Text:
        return Text(f"{int(task.completed):,}/{int(task.total or 0):,}")


class _Left(ProgressColumn):
    """The remaining time at the average pace since the start. A step both generates and trains, so
    the pace of the last seconds alone would mislead."""

    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        seconds = remaining(task)
        told = "-:--:--" if seconds is None else str(timedelta(seconds=round(seconds)))
        return Text(f"{told} left", style="cyan")


def remaining(task: Task) -> float | None:
    """The seconds that a task still needs at its average pace; None before any progress."""
    moved = task.completed - task.fields.get("begun", 0)
    if not (task.elapsed and moved > 0 and task.total):
        return None
    return task.elapsed * max(task.total - task.completed, 0) / moved


SELDOM = 30.0
"""Seconds between two progress lines if standard error is not a terminal."""

_FOLDED = 12
"""The fewest characters to which a word may be folded."""

_speaker: ContextVar[str] = ContextVar("speaker", default="")


@contextmanager
def speaking(name: str) -> Iterator[None]:
    """Prefix every line that this thread logs within the block with a name. Progress bars are
    replaced by lines, as several threads may log at once."""
    token = _speaker.set(name)
    try:
        yield
    finally:
        _speaker.reset(token)


def bar() -> Progress:
    """A progress display with rate and remaining time; disabled if standard error is not a
    terminal."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=12),
        _Done(),
        _Rate(),
        TimeElapsedColumn(),
        _Left(),
        # In a narrow terminal, the note on the step is shortened first.
        TextColumn("{task.fields[note]}", table_column=Column(ratio=1, no_wrap=True)),
        expand=True,
        console=Console(stderr=True),
        disable=not sys.stderr.isatty() or bool(_speaker.get()),
    )


class Advance(Protocol):
    """Reports progress: the units completed and the tokens generated since the last call, and, if
    given, a new note to show next to the bar."""

    def __call__(self, done: int = 0, tokens: int = 0, told: str | None = None, /) -> None: ...


@contextmanager
def counting(description: str, total: int, unit: str) -> Iterator[Advance]:
    """Show a progress bar, or, if standard error is not a terminal, a line every `SELDOM` seconds.
    Yields the function that advances it."""
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
    """Yield the table, or, if it is wider than `width` characters even with folded texts, several
    tables that share its columns out. Each of them begins with the first `keys` columns. Cells must
    be strings."""
    first = table.columns[:keys]
    chosen, title = [*first], table.title
    for column in table.columns[keys:]:
        if len(chosen) > keys and sum(map(_least, [*chosen, column])) > width:
            yield _of_columns(table, chosen, title)
            chosen, title = [*first], None
        chosen.append(column)
    yield _of_columns(table, chosen, title)


def _least(column: Column) -> int:
    """The minimum width of a column, including its padding."""
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
    """Print a line on standard error; standard output is reserved for `--json`."""
    name = _speaker.get()
    print(cleaned(f"{name}: {text}" if name else text), file=sys.stderr, flush=True)
