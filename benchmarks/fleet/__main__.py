"""How training scales to 1,000 engines and 256 trainers: a simulation, calibrated, not measured.

    python -m benchmarks.fleet [--json benchmarks/results/fleet.json]   about two minutes

Every input is a row with its source (`benchmarks.fleet.calibration`); the events are those of
`benchmarks.fleet.simulation`. Rows:

    fleet       steps per hour, fractions of time in which trainers train and engines generate, ages
                of rollouts and GPU hours per step, over engines, trainers and staleness
    saturates   per number of trainers: the engines beyond which steps hardly get faster
    grows       rollouts per step that grow with the trainers
    sync        what is transferred after a step, and how, with the most engines
    failures    the same fleet, with engines that fail more and more often
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

from benchmarks.fleet.calibration import ADAPTER, SYNCS, Sync, fleet, givens, lengths
from benchmarks.fleet.simulation import Fleet, simulate
from benchmarks.rows import Row, finish, judged, machine, note

ENGINES, RANKS, STALENESS = (4, 16, 64, 250, 1000), (8, 64, 256), (0, 1, 2, 4, 8)
GROWN, PER_RANK = ((4, 4), (16, 16), (64, 64), (256, 256), (1000, 256)), 64
"""Engines and trainers, and rollouts per trainer, where the rollouts of a step grow."""
HOURS = (1000.0, 100.0, 10.0, 1.0)
"""The time between failures of an engine."""
NEARLY = 0.95
"""The fraction of the highest steps per hour that counts as saturated."""


def row(measure: str, made: Fleet, ranks: int, **about: object) -> Row:
    """One simulated fleet: twenty steps after its pipeline is full."""
    seen = simulate(made, lengths(), made.staleness + 22)
    if (seen.written != 1).any() or seen.oldest > made.staleness:
        raise AssertionError(f"{made}: rollouts were lost, written twice or too old")
    hours = (made.engines + ranks) * seen.period_s / 3600
    return judged(
        measure,
        None,
        engines=made.engines,
        ranks=ranks,
        staleness=made.staleness,
        rollouts=made.batch,
        steps_per_hour=round(seen.steps_per_hour, 2),
        step_s=round(seen.period_s, 2),
        trainers_learn=round(seen.trainers, 3),
        engines_write=round(seen.engines, 3),
        load=round(seen.load, 3),
        mean_age=round(seen.mean_age, 2),
        lost_tokens=round(seen.lost, 5),
        gpu_hours_per_step=round(hours, 3),
        gpu_hours_per_1000_rollouts=round(1000 * hours / made.batch, 3),
        estimate=True,
        **about,
    )


def grid(engines: Sequence[int], ranks: Sequence[int], staleness: Sequence[int]) -> list[Row]:
    made = []
    for r, e, n in product(ranks, engines, staleness):
        made.append(row("fleet", fleet(e, r, n), r))
        note(
            f"{r} trainers, {e} engines, staleness {n}: {made[-1]['steps_per_hour']} steps an hour"
        )
    return made


def saturation(rows: Sequence[Row]) -> list[Row]:
    """For each number of trainers: the fewest engines, the lowest staleness and the cheapest fleet
    among those that are nearly as fast as the fastest."""
    made = []
    for ranks in dict.fromkeys(r["ranks"] for r in rows):
        here = [r for r in rows if r["ranks"] == ranks]
        most = max(r["steps_per_hour"] for r in here)
        enough = [r for r in here if r["steps_per_hour"] >= NEARLY * most]
        few = min(enough, key=lambda r: (r["engines"], r["staleness"]))
        cheap = min(here, key=lambda r: (r["gpu_hours_per_step"], r["staleness"]))
        about = {"ranks": ranks, "most_steps_per_hour": most, "engines": few["engines"]}
        about |= {"staleness": few["staleness"], "gpu_hours_per_step": few["gpu_hours_per_step"]}
        about |= {f"cheapest_{key}": cheap[key] for key in ("engines", "staleness")}
        about |= {"cheapest_gpu_hours_per_step": cheap["gpu_hours_per_step"]}
        made.append(judged("saturates", None, **about, estimate=True))
    return made


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--engines", type=int, nargs="+", default=ENGINES)
    parser.add_argument("--ranks", type=int, nargs="+", default=RANKS)
    parser.add_argument("--staleness", type=int, nargs="+", default=STALENESS)
    parser.add_argument("--json", type=Path, help="also write rows and machine to this file")
    args = parser.parse_args(arguments)
    before = machine()
    given = [judged("given", None, **one._asdict()) for one in givens()]
    rows = grid(args.engines, args.ranks, args.staleness)
    most = (max(args.engines), max(args.ranks), 1)
    syncs = [_synced(sync, *most) for sync in SYNCS]
    failing = [
        row("failures", replace(fleet(*most), failure_s=3600 * h), most[1], hours=h) for h in HOURS
    ]
    grown = [
        row("grows", fleet(e, r, n, rollouts=PER_RANK * r), r)
        for e, r in GROWN
        for n in (1, 4)
        if e <= max(args.engines)
    ]
    made = [*given, *rows, *saturation(rows), *grown, *syncs, *failing]
    return finish(made, args.json, before)


def _synced(sync: Sync, engines: int, ranks: int, staleness: int) -> Row:
    made = fleet(engines, ranks, staleness, sync)
    seconds = {"sync_s": round(made.sync_s, 2), "default": sync == ADAPTER}
    return row("sync", made, ranks, **sync._asdict(), **seconds)


if __name__ == "__main__":
    sys.exit(main())
