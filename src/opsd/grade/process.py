"""The parent's side of the process that compares answers."""

from __future__ import annotations

from pathlib import Path

from opsd.sandbox.process import Limited, WorkerError

WORKER = Path(__file__).with_name("worker.py")
# The worker ends a comparison after one second of CPU. This limit only matters if the machine is so
# busy, or the worker so stuck, that it does not get that CPU time.
WALL_LIMIT_S = 4.0


class GraderError(WorkerError):
    """Answers cannot be compared at all, which must not count as wrong answers."""


class Comparer(Limited):
    """Owns the comparing process."""

    def __init__(self) -> None:
        super().__init__("answer grader", WORKER, GraderError)

    def compare(self, answer: str, gold: str) -> bool:
        """The worker's verdict; False if the comparison does not end, or kills the worker twice."""
        return self.ask({"answer": answer, "gold": gold}, WALL_LIMIT_S).get("equal", False)
