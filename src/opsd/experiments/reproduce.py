"""The papers' claims, tried: trials in worker processes, a verdict each.

First every arm's learning rate is chosen, on dev problems, then arms are trained at it and tested.
No verdict is written by hand: it follows from where the interval of the measured effect lies.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.table import Table

from opsd.console import log
from opsd.experiments.measures import Effect, effect, verdict
from opsd.experiments.pool import run_all
from opsd.experiments.study import Claim, Source, Study, chosen, is_base
from opsd.experiments.trials import At, Trial, file_of, outcome, read, run
from opsd.runs.files import write_atomically

Row = dict[str, Any]
ROWS = "claims.json"

COLLAPSED = 0.1
"""Of accuracy: what an arm loses between the checkpoint that dev chooses and its last one, from
which on it is called collapsed."""

AT: tuple[At, ...] = ("chosen", "early", "final")


def reproduce(names: Sequence[str], known: Mapping[str, Study], output: Path) -> list[Row]:
    """Runs what is missing of the named claims' trials (all claims by default), into `output`; a
    row per claim, which
    `claims.json` there keeps beside those of other claims.

    A claim that was designed anew keeps its earlier outcomes in its row, as `earlier`.
    """
    start = time.perf_counter()
    wanted = [Plan(known[study], claims) for study, claims in chosen(names, known).items()]
    for plan in wanted:
        log(f"{plan.study.name}: {len(plan.claims)} claims, {len(plan.arms)} arms")
        _run("rates", plan.selection(), output)
        _run("tests", plan.tests(output), output)
    rows = [row_of(plan.study, name, output) for plan in wanted for name in plan.claims]
    made = _joined(kept(output), rows)
    write_atomically(output / ROWS, json.dumps(made, indent=1, ensure_ascii=False))
    Console(stderr=True).print(_table(rows))
    log(f"{len(rows)} claims in {time.perf_counter() - start:.0f} s, kept in {output / ROWS}")
    return rows


def kept(output: Path) -> list[Row]:
    """The rows of all claims that were ever run into a folder."""
    file = output / ROWS
    return json.loads(file.read_text("utf-8")) if file.is_file() else []


@dataclass(frozen=True)
class Plan:
    """The trials of some claims of a study."""

    study: Study
    claims: Sequence[str]

    @cached_property
    def arms(self) -> tuple[str, ...]:
        own = {name: claim for name, _, claim in self.study.claims()}
        needed = [self.study.arms_of(own[name]) for name in self.claims]
        return tuple(dict.fromkeys(arm for arms in needed for arm in arms))

    def selection(self) -> list[Trial]:
        """Every arm at every rate of the grid, with the seed that chooses."""
        return [trial for arm in self.arms for trial in grid(self.study, arm)]

    def tests(self, output: Path) -> list[Trial]:
        """Every arm at its rate with every seed that tests, the seeds one after the other."""
        rates = {arm: rate_of(self.study, arm, output) for arm in self.arms}
        return [
            Trial(self.study, arm, language, seed, rates[arm])
            for seed in range(self.study.seeds)
            for arm in self.arms
            for language in self.study.languages_of(arm)
        ]


def grid(study: Study, arm: str) -> list[Trial]:
    """The trials that choose an arm's learning rate; none of what is not trained."""
    if is_base(arm) or study.arms[arm].probe:
        return []
    return [
        Trial(study, arm, language, study.selection_seed, rate, tested=False)
        for rate in study.rates
        for language in study.languages_of(arm)
    ]


def scores(study: Study, arm: str, output: Path) -> dict[float, float]:
    """Of every learning rate, the dev score of the checkpoint that dev chooses, languages
    averaged."""
    made: dict[float, list[float]] = {}
    for trial in grid(study, arm):
        points = outcome(trial, output)["checkpoints"]
        made.setdefault(trial.rate, []).append(max(point["dev"] for point in points))
    return {rate: fmean(group) for rate, group in made.items()}


def rate_of(study: Study, arm: str, output: Path) -> float:
    """The learning rate with the best dev score, the smallest of equals; 0 of what is not
    trained."""
    made = scores(study, arm, output)
    return max(made, key=lambda rate: (made[rate], -rate)) if made else 0.0


@dataclass
class Tested:
    """An arm's outcomes: the seeds of each language, in order."""

    study: Study
    name: str
    output: Path
    outcomes: dict[str, list[Row]] = field(init=False)

    def __post_init__(self) -> None:
        self.rate = rate_of(self.study, self.name, self.output)
        self.outcomes = {
            code: [
                outcome(Trial(self.study, self.name, code, seed, self.rate), self.output)
                for seed in range(self.study.seeds)
            ]
            for code in self.study.languages_of(self.name)
        }

    def at(self, at: At) -> Any:
        return read(self.outcomes, at)

    def row(self, metrics: Sequence[str]) -> Row:
        """What the page says of it: metrics at each checkpoint that a claim may speak of, with
        their intervals, the learning rates tried, and what was spent."""
        every = [one for group in self.outcomes.values() for one in group]
        study = self.study
        made: Row = {
            "rate": self.rate,
            "grid": {f"{r:.1e}": round(x, 4) for r, x in self._scores().items()},
            "seconds": round(sum(one["seconds"] for one in every), 1),
            "metrics": {
                at: {m: effect([(1.0, self.at(at), m)]).rounded() for m in metrics} for at in AT
            },
        }
        courses = [one["checkpoints"] for one in every if one["checkpoints"]]
        if courses:
            made["course"] = {
                key: [round(fmean(p[key] for p in at), 4) for at in zip(*courses, strict=True)]
                for key in ("share", "tokens", "steps", "dev")
            }
            made["chosen"] = [max(course, key=lambda p: p["dev"])["share"] for course in courses]
            made["seconds_of_grid"] = round(
                sum(outcome(t, self.output)["seconds"] for t in grid(study, self.name)), 1
            )
        accuracy = made["metrics"]
        if "avg@k" in metrics:
            lost = accuracy["chosen"]["avg@k"][0] - accuracy["final"]["avg@k"][0]
            made["collapsed"] = lost > COLLAPSED
        return made

    def _scores(self) -> dict[float, float]:
        return scores(self.study, self.name, self.output)


def row_of(study: Study, name: str, output: Path) -> Row:
    """A claim's row, from the stored trials alone."""
    source, claim = next((s, c) for own, s, c in study.claims() if own == name)
    arms = {arm: Tested(study, arm, output) for arm in study.arms_of(claim)}
    terms = [(1.0, term) for term in claim.plus] + [(-1.0, term) for term in claim.minus]
    measured = effect([(sign, arms[t.arm].at(t.at), t.metric or claim.metric) for sign, t in terms])
    gain = _gain(study, claim, arms)
    said = verdict(measured, claim.at_least, gain)
    shown = {
        arm: tuple(dict.fromkeys([*(m for m in _metrics(claim, arm)), *_always(study, arm)]))
        for arm in arms
    }
    return {
        "name": name,
        "study": study.name,
        "paper": source.title,
        "claim": claim.says,
        "published": claim.published,
        "note": claim.note,
        "design": design_of(study, source, claim),
        "measured": _sum(claim),
        "effect": measured.rounded(),
        "at_least": claim.at_least,
        "metric": claim.metric,
        "gain": None if gain is None else {"arm": claim.winner, "effect": gain.rounded()},
        "verdict": said,
        "meaning": _meaning(claim, said),
        "arms": {arm: tested.row(shown[arm]) for arm, tested in arms.items()},
        "earlier": [],
    }


def design_of(study: Study, source: Source, claim: Claim) -> str:
    """A hash of what a claim compares, and how: another one is another experiment."""
    about = study.model_dump(mode="json", exclude={"arms", "papers", "questions", "title"})
    about["arms"] = {arm: study.arms[arm].model_dump(mode="json") for arm in study.arms_of(claim)}
    about["claim"] = claim.model_dump(mode="json", exclude={"holds", "fails", "note", "shown"})
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]


def _sum(claim: Claim) -> str:
    """What is measured, as a sum of arms."""
    shares = {"chosen": "", "early": " early", "final": " at the end"}
    made = ""
    for sign, terms in (("+", claim.plus), ("-", claim.minus)):
        for term in terms:
            metric = f"{term.metric} of " if term.metric else ""
            made += f" {sign} {metric}[{term.arm}]{'' if is_base(term.arm) else shares[term.at]}"
    return f"{claim.metric}: {made.removeprefix(' + ')}"


def _meaning(claim: Claim, said: str) -> str:
    """What an outcome means for somebody who trains a model."""
    return {
        "reproduced": claim.holds,
        "not reproduced": claim.fails,
        "winner not above base": (
            "Neither is worth its tokens here: the better arm is not above the untrained model."
        ),
        "inconclusive": "Nothing: effects that count and effects that do not are both possible.",
    }[said]


def _gain(study: Study, claim: Claim, arms: Mapping[str, Tested]) -> Effect | None:
    """What the winner has above the untrained model."""
    if claim.winner is None or is_base(claim.winner):
        return None
    base = study.base_of(claim.winner)
    assert base is not None
    term = claim.plus[0]
    metric = term.metric or claim.metric
    return effect(
        [(1.0, arms[term.arm].at(term.at), metric), (-1.0, arms[base].at("final"), metric)]
    )


def _metrics(claim: Claim, arm: str) -> list[str]:
    """The metrics that a claim measures of an arm, or of any."""
    terms = (*claim.plus, *claim.minus)
    return [t.metric or claim.metric for t in terms if t.arm == arm] or [claim.metric]


def _always(study: Study, arm: str) -> tuple[str, ...]:
    return () if study.arms[arm].probe else ("avg@k", "format_rate", "length")


def _joined(earlier: Sequence[Row], rows: Sequence[Row]) -> list[Row]:
    """The kept rows with the new ones in their places; the outcome of another design stays."""
    new = {row["name"]: row for row in rows}
    for old in earlier:
        row = new.setdefault(old["name"], old)
        if row is not old:
            outcome = {key: old[key] for key in ("design", "effect", "at_least", "verdict")}
            changed = [outcome] if row["design"] != old["design"] else []
            row["earlier"] = [*old["earlier"], *changed]
    return [*new.values()]


def _run(what: str, trials: Sequence[Trial], output: Path) -> None:
    missing = {t.key: t for t in trials if not file_of(t, output).is_file()}
    said = len({t.key for t in trials})
    log(f"{what}: {said} trials, {len(missing)} of them to run, in {output}")
    for _ in run_all(list(missing.values()), partial(run, folder=output)):
        pass


def _table(rows: Sequence[Row]) -> Table:
    table = Table(title="the papers' claims")
    for heading in ("claim", "effect", "95 %", "at least", "verdict"):
        table.add_column(heading)
    for row in rows:
        value, low, high = row["effect"]
        table.add_row(
            row["name"],
            f"{value:.3g}",
            f"{low:.3g} to {high:.3g}",
            f"{row['at_least']:.3g}",
            row["verdict"],
        )
    return table
