"""Runs cases in another process, within their time.

All cases share one process, because its imports take seconds. After a crash, a device error or a
case that does not finish, the next case gets a new process.
"""

from __future__ import annotations

import gc
import importlib
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from benchmarks.rows import Row, not_measured, note

Case = Mapping[str, Any]
PATIENCE_S = 60.0
"""The time that a started case may take, even if less is left for its part."""


class Part(NamedTuple):
    """Cases that `rows(**case)` of a module measures; their share of the time, in any unit; whether
    they leave a process behind that other cases cannot use."""

    module: str
    share: float
    cases: Sequence[Case]
    alone: bool = False

    @property
    def measure(self) -> str:
        return self.module.rpartition(".")[2]


class Worker:
    """A process that runs one case after another."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self.process = context.Process(target=_answer, args=(other,))
        self.process.start()
        other.close()

    def ask(self, module: str, case: Case, deadline: float, keep: Callable[[Row], None]) -> str:
        """Pass on the rows of a case as they arrive. Returns why there are no more, or nothing."""
        try:
            self.connection.send((module, dict(case)))
            while self.connection.poll(max(0.0, deadline - time.monotonic())):
                row, why = self.connection.recv()
                if row is None:
                    return why
                keep(row)
        except (EOFError, OSError):
            self.process.join(10)
            return f"the process died, exit code {self.process.exitcode}"
        self.stop()
        return "its time was up"

    @property
    def answers(self) -> bool:
        return not self.connection.closed and self.process.is_alive()

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


def run(parts: Sequence[Part], seconds: float, keep: Callable[[Row], None]) -> None:
    """Run every case of every part within this many seconds; a case that does not fit becomes a row
    that says so."""
    end = time.monotonic() + seconds
    worker: Worker | None = None
    try:
        for number, part in enumerate(parts):
            left = end - time.monotonic()
            part_end = time.monotonic() + left * part.share / sum(p.share for p in parts[number:])
            for case in part.cases:
                now = time.monotonic()
                if now >= part_end:
                    keep(not_measured(part.measure, "no time was left for it", **case))
                    continue
                if worker is None or not worker.answers:
                    worker = Worker()
                note(f"{part.measure}, {part_end - now:.0f} s left: {dict(case)}")
                # A case that does not finish must not use up the time of later ones.
                deadline = max((now + part_end) / 2, now + PATIENCE_S)
                why = worker.ask(part.module, case, min(deadline, end), keep)
                if why:
                    note(why)
                    keep(not_measured(part.measure, why, **case))
            if part.alone and worker is not None and worker.answers:
                worker.stop()
    finally:
        if worker is not None and worker.answers:
            worker.stop()


def _answer(connection: Connection) -> None:
    """The process: sends rows as `(row, "")`, then `(None, reason or nothing)`. It ends if the
    device has a persistent error."""
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # output of libraries is not a row
    while True:
        try:
            module, case = connection.recv()
        except EOFError:
            return
        why = ""
        try:
            for row in importlib.import_module(module).rows(**case):
                connection.send((row, ""))
        except Exception as error:  # whatever fails, the other cases are measured
            lines = f"{error}".strip().splitlines()
            why = f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]
        connection.send((None, why))
        _release()


def _release() -> None:
    """Release what the case held, so that the next one has the whole device."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
