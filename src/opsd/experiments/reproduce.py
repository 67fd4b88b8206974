"""Tests the papers' claims: it runs trials in worker processes and computes a verdict per claim.

First every arm's learning rate is chosen on dev problems; then arms are trained with it and tested.
No verdict is written by hand: it follows from where the interval of the measured effect lies.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.table import Table

from opsd.console import log
from opsd.experiments.measures import Counts, Effect, effect, level, verdict
from opsd.experiments.pool import run_all
from opsd.experiments.study import Claim, Study, chosen, is_base, is_trained
from opsd.experiments.trials import At, FirstStage, Trial, is_kept, outcome, read, run, train_first
from opsd.runs.files import held, to_json, write_atomically

Row = dict[str, Any]
ROWS = "claims.json"
ARMS = "arms.json"

COLLAPSED = 0.1
"""A trial has collapsed if its last checkpoint is less accurate by more than this than the one that
dev chooses."""

OVERVIEW = ("avg@k", "pass@k", "format_rate", "right_given_format", "cut_off", "length")
"""The metrics of an arm in its study's table."""

PAST = ("design", "effect", "at_least", "verdict")
"""The keys of a claim's earlier outcomes that are kept."""

AT: tuple[At, ...] = ("chosen", "early", "final")


def reproduce(names: Sequence[str], known: Mapping[str, Study], output: Path) -> list[Row]:
    """Runs the missing trials of the named claims (by default of all claims) into `output`, and
    returns a row per claim. Once a study has been run, `claims.json` stores its rows next to those
    of other claims, and `arms.json` the results of every arm.

    If a claim's outcome has changed, its row keeps the earlier outcomes, as `earlier`.

    Raises UserError for an unknown name, and if another reproduction is running in `output`.
    """
    start = time.perf_counter()
    wanted = [Plan(known[study], claims) for study, claims in chosen(names, known).items()]
    rows: list[Row] = []
    with held(output, "reproduction"):
        for plan in wanted:
            log(f"{plan.study.name}: {len(plan.claims)} claims, {len(plan.arms)} arms")
            plan = plan.started(output)
            _run("to choose rates", plan.selection(), output)
            _run("to test", plan.tests(output), output)
            own = [row_of(plan.study, name, output) for name in plan.claims]
            made = _joined(kept(output), own)
            write_atomically(output / ROWS, to_json(made, indent=1))
            arms = kept_arms(output) | {plan.study.name: overview(plan.study, output)}
            write_atomically(output / ARMS, to_json(arms, indent=1))
            rows += own
    Console().print(_table(rows))
    log(f"{len(rows)} claims in {time.perf_counter() - start:.0f} s, stored in {output / ROWS}")
    return rows


def kept(output: Path) -> list[Row]:
    """The stored rows of all claims in a folder."""
    file = output / ROWS
    return json.loads(file.read_text("utf-8")) if file.is_file() else []


def kept_arms(output: Path) -> dict[str, list[Row]]:
    """The stored results of all arms in a folder, by study."""
    file = output / ARMS
    return json.loads(file.read_text("utf-8")) if file.is_file() else {}


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

    def started(self, output: Path) -> Plan:
        """The plan with the model from its study's first stage, if it has one."""
        if self.study.first is None:
            return self
        stage = FirstStage(self.study, output)
        ((_, place),) = run_all([stage], train_first)
        return replace(self, study=self.study.model_copy(update={"start": str(place)}))

    def selection(self) -> list[Trial]:
        """Every arm with every rate of the grid, and the selection seed."""
        return [trial for arm in self.arms for trial in grid(self.study, arm)]

    def tests(self, output: Path) -> list[Trial]:
        """Every arm with its chosen rate and every test seed, ordered by seed."""
        rates = {arm: rate_of(self.study, arm, output) for arm in self.arms}
        return [
            Trial(self.study, arm, language, seed, rates[arm])
            for seed in range(self.study.seeds)
            for arm in self.arms
            for language in self.study.languages_of(arm)
        ]


def grid(study: Study, arm: str) -> list[Trial]:
    """The trials that choose an arm's learning rate; empty for an untrained arm."""
    if not is_trained(arm, study.arms[arm]):
        return []
    return [
        Trial(study, arm, language, study.selection_seed, rate, tested=False)
        for rate in study.rates
        for language in study.languages_of(arm)
    ]


def scores(study: Study, arm: str, output: Path) -> dict[float, float]:
    """The dev score of the best checkpoint by learning rate, averaged over languages."""
    made: dict[float, list[float]] = {}
    for trial in grid(study, arm):
        points = outcome(trial, output)["checkpoints"]
        made.setdefault(trial.rate, []).append(max(point["dev"] for point in points))
    return {rate: fmean(group) for rate, group in made.items()}


def rate_of(study: Study, arm: str, output: Path) -> float:
    """The learning rate that is best on dev problems; 0 for an untrained arm."""
    return best(scores(study, arm, output))


def best(made: Mapping[float, float]) -> float:
    """The learning rate with the best score, the smallest one of ties; 0 if there is none."""
    return max(made, key=lambda rate: (made[rate], -rate), default=0.0)


class Tested:
    """An arm's outcomes: a list over seeds for each language."""

    def __init__(self, study: Study, name: str, output: Path) -> None:
        self.study, self.name, self.output = study, name, output
        self.scores = scores(study, name, output)
        self.rate = best(self.scores)
        self.outcomes = {
            code: [
                outcome(Trial(study, name, code, seed, self.rate), output)
                for seed in range(study.seeds)
            ]
            for code in study.languages_of(name)
        }

    @property
    def every(self) -> list[Row]:
        return [one for group in self.outcomes.values() for one in group]

    def at(self, at: At) -> Counts:
        return read(self.outcomes, at)

    def row(self, metrics: Sequence[str]) -> Row:
        """The arm's data for the page: metrics at each checkpoint that a claim may be about, with
        their intervals, the learning rates tried, and the cost."""
        made: Row = {
            "rate": self.rate,
            "languages": len(self.outcomes),
            "grid": {f"{rate:.0e}": round(score, 4) for rate, score in self.scores.items()},
            "at_the_edge": self.rate in (self.study.rates[0], self.study.rates[-1]),
            "seconds": round(sum(one["seconds"] for one in self.every + self._selection()), 1),
            "failed": sum(one["failed"] is not None for one in self.every),
            "metrics": {at: {m: level(self.at(at), m).rounded() for m in metrics} for at in AT},
        }
        courses = [one["checkpoints"] for one in self.every if one["checkpoints"]]
        if courses:
            made["course"] = {
                key: [round(fmean(p[key] for p in at), 4) for at in zip(*courses, strict=True)]
                for key in ("share", "tokens", "steps", "dev")
            }
            made["collapsed"] = self._collapsed()
        made |= ends([one["log"].get("divergence", ()) for one in self.every])
        return made

    def _selection(self) -> list[Row]:
        return [outcome(trial, self.output) for trial in grid(self.study, self.name)]

    def _collapsed(self) -> int:
        """How many trials have lost more than `COLLAPSED` of accuracy since the chosen
        checkpoint."""
        first, last = self.at("chosen"), self.at("final")
        right, n = first.fields.index("correct"), first.fields.index("n")

        def share(cells: Any) -> Any:
            """The share of right samples, by seed."""
            return cells[..., right].sum(1) / cells[..., n].sum(1)

        pairs = [(first.by_language[code], last.by_language[code]) for code in self.outcomes]
        return sum(int((share(one) - share(other) > COLLAPSED).sum()) for one, other in pairs)


def ends(logs: Sequence[Sequence[float | None]]) -> Row:
    """The mean divergence of several trials at the first and at the last step that has one; steps
    in which no rollout is taught have none."""
    told = [[x for x in log if x is not None] for log in logs]
    known = [log for log in told if log]
    ends = [round(fmean(log[i] for log in known), 4) for i in (0, -1)] if known else []
    return {"divergence": ends} if ends else {}


def row_of(study: Study, name: str, output: Path) -> Row:
    """A claim's row, computed only from the stored trials."""
    source, claim = next((s, c) for own, s, c in study.claims() if own == name)
    arms = {arm: Tested(study, arm, output) for arm in study.arms_of(claim)}
    measured = effect([(sign, arms[t.arm].at(t.at), claim.metric_of(t)) for sign, t in claim.terms])
    gain = _gain(study, claim, arms)
    said = verdict(measured, claim.at_least, gain, claim.keeps)
    cells = next(iter(arms[claim.arms[0]].at("final").by_language.values()))
    ran = [one["environment"]["versions"] for tested in arms.values() for one in tested.every]
    return {
        "name": name,
        "study": study.name,
        "paper": source.title,
        "claim": claim.says,
        "published": claim.published,
        "note": claim.note,
        "design": design_of(study, claim),
        "metric": claim.metric,
        "measured": _sum(claim),
        "effect": measured.rounded(),
        "at_least": claim.at_least,
        "gain": None
        if gain is None
        else {"arm": claim.plus[0].arm, "effect": gain.rounded(), "keeps": claim.keeps},
        "verdict": said,
        "meaning": _meaning(claim, said),
        "seeds": cells.shape[0],
        "problems": cells.shape[1],
        "samples": study.test.samples,
        "versions": [json.loads(text) for text in sorted({*map(json.dumps, ran)})],
        "arms": {arm: t.row(_shown(study, claim, arm)) for arm, t in arms.items()},
        "earlier": [],
    }


def design_of(study: Study, claim: Claim) -> str:
    """A hash of what a claim measures: if it differs, the experiment is another one."""
    measured = dict.fromkeys(term.arm for _, term in claim.terms)
    bases = [study.base_of(arm) for arm in measured if not study.arms[arm].probe]
    trials = [
        trial.key
        for arm in dict.fromkeys([*measured, *(base for base in bases if base)])
        for trial in grid(study, arm)
        or [Trial(study, arm, code, 0, 0.0) for code in study.languages_of(arm)]
    ]
    terms = [(sign, term.model_dump(), claim.metric_of(term)) for sign, term in claim.terms]
    tested = [study.seeds, study.test.model_dump(), study.early]
    about = [trials, terms, tested, claim.at_least, claim.keeps]
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]


def overview(study: Study, output: Path) -> list[Row]:
    """A row per arm that answers test problems, if all its trials have been run: the metrics of the
    checkpoint that dev chose, and the gains over the untrained model."""
    tested = [Tested(study, arm, output) for arm in study.arms if _is_run(study, arm, output)]
    return [one.row(OVERVIEW) | {"arm": one.name, "gains": _gains(one, tested)} for one in tested]


def _is_run(study: Study, arm: str, output: Path) -> bool:
    if study.arms[arm].probe or not all(is_kept(t, output) for t in grid(study, arm)):
        return False
    rate = rate_of(study, arm, output)
    made = [(code, seed) for code in study.languages_of(arm) for seed in range(study.seeds)]
    return all(is_kept(Trial(study, arm, code, seed, rate), output) for code, seed in made)


def _gains(one: Tested, tested: Sequence[Tested]) -> dict[str, list[float | None]]:
    base = next((other for other in tested if other.name == one.study.base_of(one.name)), one)
    if base is one:
        return {}
    above, below = one.at("chosen"), base.at("final")
    return {m: effect([(1.0, above, m), (-1.0, below, m)]).rounded() for m in OVERVIEW}


def _sum(claim: Claim) -> str:
    """What is measured, written as a sum over arms."""
    shares = {"chosen": "", "early": " early", "final": " at the end"}
    made = ""
    for sign, term in claim.terms:
        metric = f"{term.metric} of " if term.metric else ""
        at = "" if is_base(term.arm) else shares[term.at]
        made += f" {'+' if sign > 0 else '-'} {metric}[{term.arm}]{at}"
    return f"{claim.metric}: {made.removeprefix(' + ')}"


def _meaning(claim: Claim, said: str) -> str:
    """What a verdict means for a user who trains a model."""
    return {
        "reproduced": claim.holds,
        "not reproduced": claim.fails,
        "not above base": "The difference is there, but the untrained model is as good.",
        "inconclusive": "Undecided: the effect may be large enough to count, or not.",
        "not measurable": "Undecided: there was nothing to measure.",
    }[said]


def _gain(study: Study, claim: Claim, arms: Mapping[str, Tested]) -> Effect | None:
    """The claimed arm's gain over the untrained model."""
    term = claim.claimed
    if term is None:
        return None
    base = study.base_of(term.arm)
    assert base is not None
    above, below = arms[term.arm].at(term.at), arms[base].at("final")
    return effect([(1.0, above, claim.metric_of(term)), (-1.0, below, claim.metric_of(term))])


def _shown(study: Study, claim: Claim, arm: str) -> tuple[str, ...]:
    """The metrics that a claim measures for an arm, else the claim's own; and those that are always
    shown."""
    own = [claim.metric_of(t) for _, t in claim.terms if t.arm == arm] or [claim.metric]
    always = () if study.arms[arm].probe else ("avg@k", "format_rate", "length")
    return tuple(dict.fromkeys([*own, *always]))


def _joined(earlier: Sequence[Row], rows: Sequence[Row]) -> list[Row]:
    """The stored rows in their order, replaced by new ones of the same name, which keep earlier
    outcomes if these differ."""
    made = {row["name"]: row for row in earlier}
    for row in rows:
        if old := made.get(row["name"]):
            past = {key: old[key] for key in PAST}
            another = any(row[key] != old[key] for key in PAST)
            row["earlier"] = [*old["earlier"], *([past] if another else [])]
        made[row["name"]] = row
    return [*made.values()]


def _run(what: str, trials: Sequence[Trial], output: Path) -> None:
    missing = {t.key: t for t in trials if not is_kept(t, output)}
    said = len({t.key for t in trials})
    log(f"{said} trials {what}, {len(missing)} of them still to run, in {output}")
    for _ in run_all(list(missing.values()), partial(run, folder=output)):
        pass


def _table(rows: Sequence[Row]) -> Table:
    table = Table(title="the papers' claims")
    for heading in ("claim", "effect", "95 %", "at least", "verdict"):
        table.add_column(heading)
    for row in rows:
        value, low, high = ("-" if x is None else f"{x:.3g}" for x in row["effect"])
        interval = f"{low} to {high}"
        table.add_row(row["name"], value, interval, f"{row['at_least']:.3g}", row["verdict"])
    return table
