"""From samples to scores: `result.json`."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opsd.evaluate.labels import CORRECTED, UPSTREAM, fix_of
from opsd.evaluate.metrics import (
    accuracy_given_format,
    avg_at_k,
    bootstrap_interval,
    format_rate,
    pass_at_k,
)
from opsd.evaluate.samples import Row
from opsd.grade.verifier import MathVerifier
from opsd.run import write_atomically
from opsd.types import Problem

RESULT = "result.json"


@dataclass(frozen=True)
class Judged:
    """One sample within one budget, under one set of labels."""

    correct: bool
    format_ok: bool
    cut_off: bool


def average(group: Sequence[Judged]) -> float:
    """avg@k of one problem's k samples."""
    return avg_at_k([s.correct for s in group])


def passes(group: Sequence[Judged]) -> float:
    """pass@k of one problem's k samples: whether any is right."""
    return pass_at_k(len(group), sum(s.correct for s in group), len(group))


METRICS: dict[str, Callable[[Sequence[Judged]], float]] = {"avg@k": average, "pass@k": passes}


def label_sets(rows: Iterable[Row]) -> list[str]:
    """The labels that samples are scored under: the corrected ones where some are wrong."""
    wrong = any(fix_of(row["suite"], row["language"], row["row"], row["answer"]) for row in rows)
    return [UPSTREAM, CORRECTED] if wrong else [UPSTREAM]


def judged(row: Row, budget: int, labels: str) -> Judged | None:
    """One sample's judgement; None for a problem that these labels leave out, having none that is
    right."""
    by_then = row["budgets"][str(budget)]
    correct = by_then["correct"]
    fix = None
    if labels == CORRECTED:
        fix = fix_of(row["suite"], row["language"], row["row"], row["answer"])
    if fix is not None:
        if fix.corrected is None:
            return None
        correct = _right(by_then["said"], fix.corrected, row["language"])
    return Judged(correct, by_then["format_ok"], by_then["cut_off"])


def _right(said: str | None, answer: str, language: str) -> bool:
    if said is None:
        return False
    problem = Problem("", answer=answer, language=language)
    return MathVerifier()(problem, rf"\boxed{{{said}}}").correct


def results(
    model: str, suite: str, rows: Iterable[Row], budgets: Sequence[int], samples: int
) -> list[dict[str, Any]]:
    """One result per language, set of labels and budget; the first `samples` of each problem."""
    by_language: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row["sample"] < samples:
            by_language[row["language"]].append(row)
    return [
        {
            "model": model,
            "suite": suite,
            "language": language,
            "labels": labels,
            "budget": budget,
            **_scores(groups(own, budget, labels), samples),
        }
        for language, own in by_language.items()
        for labels in label_sets(own)
        for budget in budgets
    ]


def groups(rows: Iterable[Row], budget: int, labels: str) -> dict[str, list[Judged]]:
    """The judgements of each problem, by its key."""
    found: dict[str, list[Judged]] = defaultdict(list)
    for row in rows:
        sample = judged(row, budget, labels)
        if sample is not None:
            found[row["problem"]].append(sample)
    return found


def _scores(found: Mapping[str, Sequence[Judged]], samples: int) -> dict[str, Any]:
    every = [sample for group in found.values() for sample in group]
    formed = [sample.format_ok for sample in every]
    averages = [average(group) for group in found.values()]
    return {
        "n_problems": len(found),
        "samples": samples,
        "avg@k": sum(averages) / len(averages),
        "pass@k": sum(map(passes, found.values())) / len(found),
        "format_rate": format_rate(formed),
        "accuracy_given_format": accuracy_given_format([s.correct for s in every], formed),
        "cut_off": sum(sample.cut_off for sample in every) / len(every),
        "interval": list(bootstrap_interval(averages)),
    }


def write(folder: Path, seconds: float, made: Sequence[Mapping[str, Any]]) -> None:
    """Writes `result.json`; results of other languages that are there already stay."""
    file = folder / RESULT
    languages = {row["language"] for row in made}
    before = json.loads(file.read_text("utf-8"))["results"] if file.is_file() else []
    others = [row for row in before if row["language"] not in languages]
    content = {"seconds": seconds, "results": [*others, *made]}
    write_atomically(file, json.dumps(content, indent=1, ensure_ascii=False))
