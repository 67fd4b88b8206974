"""Profiles where an optimizer step's time goes: a trace for a viewer, and a table to read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, schedule
from transformers import TrainerCallback

from opsd.console import log
from opsd.runs.files import write_atomically
from opsd.training.metrics import PHASE

_OPERATIONS = 15
_INSIDE = {"grade": "rollout", "loss": "student"}
"""Phases that run within another one, and whose time is subtracted from it."""
_SAID = {
    "rollout": "rollouts: generation, authors",
    "grade": "grading",
    "teacher": "teachers read",
    "student": "student: forward and backward",
    "loss": "loss: output layer, divergence, gradients",
    "optimizer": "optimizer",
    "other": "everything else",
}


class Profiling(TrainerCallback):
    """Profiles one optimizer step, the second one if there are two, since the first one includes
    one-time setup costs. Writes `trace.json.gz` (for ui.perfetto.dev) and `table.md` into
    `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.profile: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # no lines at start and stop
        activities = [ProfilerActivity.CPU]
        activities += [ProfilerActivity.CUDA] if torch.cuda.is_available() else []
        self.profile = profile(
            activities=activities,
            schedule=schedule(wait=0, warmup=1, active=1, repeat=1),
            on_trace_ready=self.write,
            acc_events=True,
        )
        self.profile.start()
        if state.max_steps - state.global_step == 1:
            self.profile.step()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.profile.step()

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        self.profile.stop()

    def write(self, done: Any) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        done.export_chrome_trace(str(self.folder / "trace.json.gz"))
        write_atomically(self.folder / "table.md", table(done.key_averages()))
        log((self.folder / "table.md").read_text("utf-8") + f"\nprofile: {self.folder}")


def table(events: Any) -> str:
    """A Markdown table of a step's phases, then of the operations that took the most time."""
    spent = phases(events)
    whole = sum(spent.values())
    lines = ["| where | ms | share |", "| --- | ---: | ---: |"]
    lines += [
        f"| {_SAID.get(name, name)} | {ms:,.1f} | {ms / whole:.0%} |" for name, ms in spent.items()
    ]
    lines += [f"| a step | {whole:,.1f} | |", "", "| operation | calls | ms | share |"]
    lines += ["| --- | ---: | ---: | ---: |"]
    own = [(e.key, e.count, _ms(e, "self_")) for e in events if not _marked(e.key)]
    for key, count, ms in sorted(own, key=lambda row: -row[2])[:_OPERATIONS]:
        lines.append(f"| {key[:60]} | {count:,} | {ms:,.1f} | {ms / whole:.0%} |")
    return "\n".join(lines) + "\n"


def phases(events: Any) -> dict[str, float]:
    """The milliseconds of a step's phases, which add up to the whole step."""
    spent = {e.key.removeprefix(PHASE): _ms(e) for e in events if e.key.startswith(PHASE)}
    spent["optimizer"] = sum(_ms(e) for e in events if e.key.startswith("Optimizer.step"))
    for inner, outer in _INSIDE.items():
        if inner in spent and outer in spent:
            spent[outer] -= spent[inner]
    step = sum(_ms(e) for e in events if e.key.startswith("ProfilerStep"))
    return spent | {"other": max(0.0, step - sum(spent.values()))}


def _marked(name: str) -> bool:
    """Whether a name belongs to a span (ours or the profiler's) rather than to an operation."""
    return name.startswith((PHASE, "ProfilerStep", "Optimizer."))


def _ms(event: Any, own: str = "") -> float:
    """Milliseconds on the device if any, else on the CPU."""
    device = getattr(event, f"{own}device_time_total")
    return (device or getattr(event, f"{own}cpu_time_total")) / 1e3
