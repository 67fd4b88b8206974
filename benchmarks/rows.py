"""A benchmark's result: JSON rows with `ratio`, `target` and `ok`, and how they are stored."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from opsd.runs.environment import environment
from opsd.runs.files import write_atomically

Row = dict[str, Any]
Argument = TypeVar("Argument")
Result = TypeVar("Result")


def judged(
    measure: str, ratio: float | None, target: Any = None, ok: bool = True, **more: Any
) -> Row:
    """A row with a number and, if there is a target, whether it is met."""
    told = None if ratio is None else round(ratio, 3)
    return {"measure": measure, "ratio": told, "target": target, "ok": ok, **more}


def not_measured(measure: str, why: str, **more: Any) -> Row:
    """A row for what cannot be measured on this machine."""
    return judged(measure, None, **more, not_measured=why)


def in_fresh_process(measure: Callable[[Argument], Result], argument: Argument) -> Result:
    """What `measure` returns in a fresh process, without traces of an earlier measurement."""
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=fresh) as pool:
        return pool.submit(measure, argument).result()


def machine() -> dict[str, Any]:
    """Versions and hardware, and the load of the machine by others."""
    return {**environment(), "load": [round(load, 2) for load in os.getloadavg()]}


def finish(rows: Sequence[Mapping[str, Any]], file: Path | None, before: Mapping[str, Any]) -> int:
    """Print the rows, and store them with the state of the machine `before` and the date. Returns
    the exit code: 1 if a target is missed."""
    for row in rows:
        print(json.dumps(row), flush=True)
    if file is not None:
        store(rows, file, before)
    return 0 if all(row["ok"] for row in rows) else 1


def store(rows: Sequence[Mapping[str, Any]], file: Path, before: Mapping[str, Any]) -> None:
    """The rows, the state of the machine `before`, the date and the command, in one file."""
    date = datetime.now(UTC).date().isoformat()
    stored = {"command": command(), "date": date, "machine": before, "rows": rows}
    write_atomically(file, json.dumps(stored, indent=1))


def command() -> str:
    """The command that started this benchmark, without the path for its rows."""
    path = Path(sys.argv[0])
    module = path.parent.name if path.stem == "__main__" else path.stem
    told = list(sys.argv[1:])
    if "--json" in told:
        place = told.index("--json")
        del told[place : place + 2]
    return " ".join([f"python -m benchmarks.{module}", *told])


def note(text: str) -> None:
    """Print progress, separately from the rows."""
    print(text, file=sys.stderr, flush=True)
