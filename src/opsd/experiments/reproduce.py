"""The papers' claims, tried in the built-in world: trials in worker processes, a verdict each.

No verdict is written by hand: it follows from where the interval of the measured effect lies.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from opsd.console import log
from opsd.experiments.claim import Claim
from opsd.experiments.measures import find
from opsd.experiments.pool import run_all
from opsd.experiments.trials import Trial, file_of, read, run
from opsd.runs.disk import writing
from opsd.runs.files import write_atomically

Row = dict[str, Any]


def reproduce(claims: Sequence[Claim], output: Path) -> list[Row]:
    """Runs what is missing of the claims' trials, into `output`; a row per claim.

    `claims.json` there keeps the rows of other claims that were run before. A claim's row is
    {"name", "claim", "paper", "world", "measured", "at_least", "interval", "seeds", "verdict",
    "seconds"}; its verdict is printed as soon as its last trial has ended.
    """
    start = time.perf_counter()
    needed = {claim.name: trials_of(claim) for claim in claims}
    missing = {t.key: t for trials in needed.values() for t in trials if not _there(t, output)}
    said = len({t.key for trials in needed.values() for t in trials})
    log(f"{len(claims)} claims, {said} trials, {len(missing)} of them to run, in {output}")
    open_ = dict.fromkeys(claim.name for claim in claims)
    rows: dict[str, Row] = {}

    def conclude() -> None:
        for claim in claims:
            whole = claim.name in open_ and not missing.keys() & {t.key for t in needed[claim.name]}
            if whole:
                del open_[claim.name]
                rows[claim.name] = row_of(claim, needed[claim.name], output)
                log(_line(rows[claim.name]))

    conclude()
    with writing(output):
        for trial, _ in run_all(list(missing.values()), partial(run, folder=output)):
            del missing[trial.key]
            conclude()
    made = [rows[claim.name] for claim in claims]
    kept = output / "claims.json"
    earlier = json.loads(kept.read_text("utf-8")) if kept.is_file() else []
    others = [row for row in earlier if row["name"] not in rows]
    write_atomically(kept, json.dumps([*others, *made], indent=1, ensure_ascii=False))
    Console(stderr=True).print(_table(made))
    counted = [row["verdict"] for row in made]
    told = ", ".join(f"{counted.count(v)} {v}" for v in dict.fromkeys(counted))
    log(f"{told}; {time.perf_counter() - start:.0f} s")
    return made


def trials_of(claim: Claim) -> list[Trial]:
    """Every arm in each of its languages with each seed."""
    return [
        Trial(name, claim.world, arm, language, seed)
        for name, arm in claim.arms.items()
        for language in arm.languages
        for seed in range(claim.seeds)
    ]


def row_of(claim: Claim, trials: Sequence[Trial], output: Path) -> Row:
    """A claim's row, from the stored trials alone."""
    counts = {}
    seconds = 0.0
    for name, arm in claim.arms.items():
        files = {
            code: [file_of(t, output) for t in trials if (t.name, t.language) == (name, code)]
            for code in arm.languages
        }
        counts[name] = read(files)
        every = [f for group in files.values() for f in group]
        seconds += sum(json.loads(f.read_text("utf-8"))["seconds"] for f in every)
    finding = find(claim.measure, counts, claim.at_least)
    return {
        "name": claim.name,
        "claim": claim.claim,
        "paper": claim.paper,
        "world": claim.world,
        "measured": {"effect": round(finding.value, 4), "arms": _arms(claim, counts)},
        "at_least": claim.at_least,
        "interval": [round(x, 4) for x in finding.interval],
        "seeds": claim.seeds,
        "verdict": finding.verdict,
        "seconds": round(seconds, 1),
        **({"note": claim.note} if claim.note else {}),
    }


def _arms(claim: Claim, counts: Mapping[str, Any]) -> Row:
    """Every arm's metrics at each of its points, languages averaged, and the tokens by then; of an
    arm that the measure does not speak of, its accuracy."""
    shown = claim.measure.shown()
    made = {}
    for name, arm in counts.items():
        made[name] = {
            metric: [round(float(x), 4) for x in arm.curves(metric).mean(0)[0]]
            for metric in shown.get(name, ("avg@k",))
        }
        made[name]["tokens"] = [round(float(x)) for x in arm.tokens.mean(0)]
    return made


def _there(trial: Trial, output: Path) -> bool:
    return file_of(trial, output).is_file()


def _line(row: Row) -> str:
    low, high = row["interval"]
    effect = row["measured"]["effect"]
    return f"{row['name']}: {row['verdict']} ({effect:.3g}, 95 % {low:.3g} to {high:.3g})"


def _table(rows: Sequence[Row]) -> Table:
    table = Table(title="the papers' claims in the built-in world")
    for heading in ("claim", "effect", "95 %", "at least", "verdict"):
        table.add_column(heading)
    for row in rows:
        low, high = row["interval"]
        table.add_row(
            row["name"],
            f"{row['measured']['effect']:.3g}",
            f"{low:.3g} to {high:.3g}",
            f"{row['at_least']:.3g}",
            row["verdict"],
        )
    return table
