"""Progress for people, on standard error: what is going on, how fast, how long still."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
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
from rich.text import Text
from transformers import TrainerCallback


class _Rate(ProgressColumn):
    """Completed units per second, or seconds per unit where that is the slower of the two."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        if not speed:
            return Text("-/s", style="dim")
        unit = task.fields.get("unit", "")
        text = f"{speed:.1f} {unit}/s" if speed >= 1 else f"{1 / speed:.1f} s/{unit}"
        return Text(text, style="dim")


def bar() -> Progress:
    """A progress display with rate and remaining time; silent where nobody is looking."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        _Rate(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
    )


@contextmanager
def counting(description: str, total: int, unit: str) -> Iterator[Any]:
    """A bar; yields the function that advances it by n units and may change the note."""
    with bar() as progress:
        task = progress.add_task(description, total=total, unit=unit, note="")

        def advance(n: int = 1, note: str | None = None) -> None:
            progress.update(task, advance=n, **({} if note is None else {"note": note}))

        yield advance


class TrainingProgress(TrainerCallback):
    """A bar over the optimizer steps, and a line per log where standard error is no terminal."""

    def __init__(self) -> None:
        self.progress = bar()
        self.task: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self.progress.start()
            self.task = self.progress.add_task(
                "training", total=state.max_steps, completed=state.global_step, unit="step", note=""
            )

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if not state.is_world_process_zero or not logs:
            return
        note = _note(logs)
        if self.task is not None:
            self.progress.update(self.task, completed=state.global_step, note=note)
        if self.progress.disable and note:
            line = f"step {state.global_step}/{state.max_steps}  {note}"
            print(line, file=sys.stderr, flush=True)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.progress.stop()


def _note(logs: dict[str, Any]) -> str:
    """The few numbers that say whether a run is well."""
    shown = (
        ("loss", "loss", ".4f"),
        ("divergence", "divergence", ".4f"),
        ("accuracy", "correct", ".2f"),
        ("completions/mean_length", "length", ".0f"),
        ("generated_tokens", "tokens", ",d"),
        ("eval_avg@k", "dev avg@k", ".3f"),
        ("eval_format_rate", "dev format", ".2f"),
    )
    return "  ".join(f"{label} {logs[key]:{form}}" for key, label, form in shown if key in logs)
