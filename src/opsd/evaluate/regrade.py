"""Grades stored samples again, after the grader or a label has changed. Nothing is generated, and
no model is loaded."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from opsd.console import counting, log
from opsd.evaluate.results import results, write
from opsd.evaluate.samples import SAMPLES, Row, claims, sampled_rows
from opsd.evaluate.show import show_results
from opsd.grade.judge import judge
from opsd.grade.verifiers import verifier
from opsd.runs.evaluation_files import PROTOCOL, read
from opsd.runs.files import held, to_json, write_atomically
from opsd.runs.json_files import sealed
from opsd.suites.loading import SUITES
from opsd.types import Attempt, Problem, UserError

SHOWN = 5
"""How many changed verdicts are printed."""


def regrade(folders: Sequence[Path]) -> dict[str, Any]:
    """Grades the samples of every evaluation in these folders again, at any depth, rewrites
    `samples.jsonl` and `result.json`, and prints what has changed, and the scores.

    Returns {"seconds", "results": [...], "changed": n}. Raises UserError for a folder without an
    evaluation, and for samples that lack what grading needs.
    """
    start = time.perf_counter()
    made: list[Row] = []
    changed = 0
    for folder in folders:
        for place, claim in claims(folder):
            own, n = _again(place, claim)
            made += own
            changed += n
    return {"seconds": round(time.perf_counter() - start, 2), "results": made, "changed": changed}


def _again(place: Path, claim: Row) -> tuple[list[Row], int]:
    """One evaluation's results, and how many verdicts have changed."""
    with held(place, "evaluation"):
        before = list(sampled_rows(place))
        suite = before[0]["suite"]
        asked = claim["protocol"]
        usual = {"type": "math", "after_think": asked.get("after_think", False)}
        judging = verifier(to_json(asked.get("verifier", usual)), f"{place / PROTOCOL}: verifier")
        rows = []
        with counting(f"grading {claim['model']} on {suite}", len(before), "sample") as advance:
            for row in before:
                rows.append(_judged(row, judging, place))
                advance(1)
        known = SUITES.get(suite)
        splits = known.splits if known else claim["splits"]
        aside = known.aside if known else claim["aside"] or ()
        samples = 1 + max(row["sample"] for row in rows)
        scores = results(claim["model"], suite, rows, claim["protocol"]["budgets"], samples, splits)
        told = {row["language"]: row["trained_on"] for row in read(place) if "trained_on" in row}
        scores = [
            row | {"trained_on": told[row["language"]]} if row["language"] in told else row
            for row in scores
        ]
        lines = "".join(to_json(sealed(row)) + "\n" for row in rows)
        write_atomically(place / SAMPLES, lines)
        write(place, 0.0, scores)
    changes = [
        _change(old, new, budget)
        for old, new in zip(before, rows, strict=True)
        for budget in new["budgets"]
        if old["budgets"][budget]["correct"] != new["budgets"][budget]["correct"]
    ]
    total = sum(len(row["budgets"]) for row in rows)
    log(f"{place}: {len(changes):,} of {total:,} verdicts changed")
    for line in changes[:SHOWN]:
        log(f"  {line}")
    show_results(scores, aside)
    return scores, len(changes)


def _judged(row: Row, judging: Any, place: Path) -> Row:
    """A sample with new verdicts. At a budget that cut it off, the text up to there is judged.
    Samples of earlier versions do not record where that is; there, the stored answer is judged."""
    about = f"{place / SAMPLES}: problem {row['problem']}, sample {row['sample']}"
    whole = row.get("completion")
    if not isinstance(whole, str):
        raise UserError(f"{about} has no text to judge; evaluate again")
    suite = SUITES.get(row["suite"])
    if suite is not None and suite.choices and "choices" not in row:
        raise UserError(f"{about} does not contain its options; evaluate again")
    metadata = {"choices": tuple(row["choices"])} if "choices" in row else {}
    problem = Problem(
        row.get("prompt") or "", answer=row["answer"], language=row["language"], metadata=metadata
    )
    budgets: dict[str, Mapping[str, Any]] = {}
    for budget, old in row["budgets"].items():
        if row["tokens"] <= int(budget) or "chars" in old:
            budgets[budget] = old | _verdict(judging, problem, whole[: old.get("chars")])
        else:
            box = "" if old["said"] is None else rf"</think>\boxed{{{old['said']}}}"
            budgets[budget] = old | {"correct": _verdict(judging, problem, box)["correct"]}
    return {**row, "budgets": budgets}


def _verdict(judging: Any, problem: Problem, text: str) -> Row:
    """A verifier's verdict on a text, under the names that samples use."""
    (verdict,) = judge(judging, [Attempt(problem, text)])
    if verdict is None:
        raise UserError(f"{problem.name}: no verdict; evaluate again")
    made: Row = {"correct": verdict.correct, "format_ok": verdict.format_ok}
    if not getattr(judging, "reads_boxes", False):
        made["reward"] = float(verdict.reward)
    said = getattr(judging, "said", None)
    return made | ({"said": said(problem, text)} if said else {})


def _change(old: Row, new: Row, budget: str) -> str:
    was, now = ("right" if row["budgets"][budget]["correct"] else "wrong" for row in (old, new))
    said = new["budgets"][budget].get("said")
    where = f"problem {new['problem']}, sample {new['sample']} at {int(budget):,} tokens"
    return f"{where}: {said!r} against {new['answer']!r} was {was}, is {now}"
