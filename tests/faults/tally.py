"""What tries have come to, counted by kind, over one call of the runner or several."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table

from opsd.runs.files import write_atomically

LOST, UNEQUAL, TRACEBACK, UNCLEAR, HANG = FAILURES = (
    "lost or doubled",
    "ends unequal",
    "tracebacks",
    "unclear",
    "hangs",
)


@dataclass(frozen=True)
class Outcome:
    """One try, of a `kind`. `failed` is one of FAILURES, or empty; `what` says how."""

    kind: str
    failed: str = ""
    what: str = ""


@dataclass
class Tally:
    """Counts by kind: tries under "tried", failures by their names; and `seconds` of work."""

    counts: dict[str, Counter[str]] = field(default_factory=dict)
    seconds: float = 0.0

    @staticmethod
    def read(path: Path) -> Tally:
        content = json.loads(path.read_text("utf-8"))
        counts = {kind: Counter(counts) for kind, counts in content["counts"].items()}
        return Tally(counts, content["seconds"])

    def write(self, path: Path) -> None:
        content = {"seconds": round(self.seconds, 1), "counts": self.counts}
        write_atomically(path, json.dumps(content, indent=1, sort_keys=True) + "\n")

    def add(self, outcomes: Iterable[Outcome]) -> None:
        for outcome in outcomes:
            own = self.counts.setdefault(outcome.kind, Counter())
            own.update(["tried", outcome.failed] if outcome.failed else ["tried"])

    def __add__(self, other: Tally) -> Tally:
        made = Tally(seconds=self.seconds + other.seconds)
        for kind in sorted({**self.counts, **other.counts}):
            made.counts[kind] = self.counts.get(kind, Counter()) + other.counts.get(kind, Counter())
        return made

    @property
    def tried(self) -> int:
        return sum(counts["tried"] for counts in self.counts.values())

    @property
    def failures(self) -> int:
        return sum(counts[name] for counts in self.counts.values() for name in FAILURES)

    def rows(self) -> list[list[Any]]:
        """A row per kind, as the table's headings say."""
        names = ("tried", *FAILURES)
        return [[kind, *(own[name] for name in names)] for kind, own in sorted(self.counts.items())]

    def table(self) -> Table:
        table = Table(title=f"{self.tried:,} tries, {self.failures:,} failures")
        for heading in ("kind", "tried", *FAILURES):
            table.add_column(heading, justify="left" if heading == "kind" else "right")
        for row in self.rows():
            table.add_row(*(f"{x:,}" if isinstance(x, int) else x for x in row))
        return table
