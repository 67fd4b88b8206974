"""The runner: kinds of faults by turns, until the time is over; a table, and a page."""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from tests.faults import damage, disks, inputs, kills, page, processes
from tests.faults.commands import World
from tests.faults.tally import Outcome, Tally

from opsd.console import bar

Tried = Callable[[int, World], Iterable[Outcome]]
KINDS: Mapping[str, Tried] = {
    "kills": kills.tried,
    "damage": damage.tried,
    "full": disks.tried,
    "input": inputs.tried,
}


def campaign(
    kinds: Sequence[str], seed: int, world: World, minutes: float = 1.0, tries: int | None = None
) -> Tally:
    """Tries of these kinds by turns: so many of each, or for so long, and each at least once. What
    fails is printed."""
    tally, start = Tally(), time.perf_counter()
    processes.prepare()
    with bar() as progress:
        task = progress.add_task("seconds", total=round(60 * minutes), unit="s", note="")
        for number in itertools.count(seed):
            for kind in kinds:
                _add(tally, kind, number, list(KINDS[kind](number, world)), progress.console)
                tally.seconds = time.perf_counter() - start
                note = f"{tally.tried:,} tries, {tally.failures} failures"
                progress.update(task, completed=round(tally.seconds), note=note)
                if tries is None and number > seed and tally.seconds > 60 * minutes:
                    return tally
            if tries is not None and number + 1 - seed >= tries:
                return tally
    raise AssertionError("the seeds are endless")


def _add(tally: Tally, kind: str, seed: int, outcomes: Sequence[Outcome], console: Console) -> None:
    tally.add(outcomes)
    for outcome in outcomes:
        if outcome.failed:
            again = f"python -m tests.faults --kind {kind} --seed {seed} --tries 1"
            told = f"{outcome.kind}: {outcome.failed}\n{outcome.what}\nagain: {again}"
            console.print(told, markup=False, highlight=False, soft_wrap=True)


def main() -> None:
    parser = argparse.ArgumentParser("python -m tests.faults", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--tries", type=int, help="Of each kind, however long they take.")
    parser.add_argument("--kind", default=",".join(KINDS), help="Some kinds, comma-separated.")
    parser.add_argument("--seed", type=int, default=0, help="Of the first try.")
    parser.add_argument("--json", type=Path, help="A file that adds up the results of calls.")
    parser.add_argument("--write", type=Path, help="Only write this page from the --json file.")
    asked = parser.parse_args()
    if asked.write is not None:
        page.write(Tally.read(asked.json), asked.write)
        return
    kinds = asked.kind.split(",")
    if unknown := set(kinds) - KINDS.keys():
        parser.error(f"--kind {unknown.pop()}: there are {', '.join(KINDS)}")
    with tempfile.TemporaryDirectory() as folder:
        tally = campaign(kinds, asked.seed, World(Path(folder)), asked.minutes, asked.tries)
    if asked.json is not None:
        (Tally.read(asked.json) + tally if asked.json.is_file() else tally).write(asked.json)
    Console().print(tally.table())
    sys.exit(1 if tally.failures else 0)
