"""The process that compares answers, from this side."""

from __future__ import annotations

from pathlib import Path

from opsd.sandbox.process import Limited, WorkerError

WORKER = Path(__file__).with_name("worker.py")
# The worker ends a comparison after one second of CPU. This one only counts where the machine is so
# busy, or the worker so stuck, that the CPU time does not come.
WALL_LIMIT_S = 4.0


class GraderError(WorkerError):
    """Answers cannot be compared at all, which must not pass for wrong answers."""


class Comparer(Limited):
    """Owner of the comparing process."""

    def __init__(self) -> None:
        super().__init__("answer grader", WORKER, GraderError)

    def compare(self, answer: str, gold: str) -> bool:
        """The worker's verdict; False where the comparison does not end, or twice ends it."""
        return self.ask({"answer": answer, "gold": gold}, WALL_LIMIT_S).get("equal", False)
