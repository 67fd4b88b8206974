"""From samples to scores: `result.json`."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from opsd.evaluate.samples import Row
from opsd.evaluate.weighted import weighted
from opsd.grade.answer import answers_agree
from opsd.grade.intervals import estimate
from opsd.grade.metrics import (
    accuracy_given_format,
    avg_at_k,
    format_rate,
    majority,
    mean,
    pass_at_k,
)
from opsd.grade.verifier import MathVerifier
from opsd.runs.evaluation_files import RESULT, SAMPLES, read
from opsd.runs.files import write_atomically
from opsd.runs.json_files import Damaged, sealed
from opsd.suites.labels import CORRECTED, UPSTREAM, fix_of
from opsd.types import Problem, UserError


@dataclass(frozen=True)
class Judged:
    """The judgement of one sample within one budget, under one set of labels."""

    correct: bool
    format_ok: bool
    cut_off: bool
    said: str | None = None
    votes: bool = True
    """Whether the verifier can extract the sample's answer."""
    reward: float | None = None
    """The verifier's reward, if it is not the same as `correct`."""
    language: str = "eng"
    tokens: int = 0
    repetition: tuple[int, int] = (0, 0)
    """The number of its 4-grams that repeat an earlier one, and the number of all its 4-grams."""
    fidelity: tuple[int, int] = (0, 0)
    """The number of its letters in the requested language, and in any identified language."""


def average(group: Sequence[Judged]) -> float:
    """avg@k of one problem's k samples."""
    return avg_at_k([s.correct for s in group])


def passes(group: Sequence[Judged]) -> float:
    """pass@k of one problem's k samples: whether any is right."""
    return pass_at_k(len(group), sum(s.correct for s in group), len(group))


def majority_right(group: Sequence[Judged]) -> float:
    """maj@k of one problem's k samples: whether the answer that most of them give is right."""
    same = partial(answers_agree, language=group[0].language)
    first = majority([s.said for s in group], same)
    return 0.0 if first is None else float(group[first].correct)


def counted(samples: Iterable[Judged]) -> list[str]:
    """The metrics that can be computed for samples: a majority needs answers to count."""
    votes = any(sample.votes for sample in samples)
    return [name for name in METRICS if votes or name != MAJORITY]


MAJORITY = "maj@k"
METRICS: dict[str, Callable[[Sequence[Judged]], float]] = {
    "avg@k": average,
    "pass@k": passes,
    MAJORITY: majority_right,
}


def label_sets(rows: Iterable[Row]) -> list[str]:
    """The sets of labels that samples are scored under: the corrected ones, too, if some labels are
    wrong."""
    wrong = any(
        fix_of(row["suite"], row["language"], row["row"], row["answer"])
        for row in rows
        if "verifier" not in row  # another verifier than the mathematical one
    )
    return [UPSTREAM, CORRECTED] if wrong else [UPSTREAM]


def judged(row: Row, budget: int, labels: str) -> Judged | None:
    """One sample's judgement; None for a problem that these labels leave out, since no label would
    be right."""
    if str(budget) not in row["budgets"]:
        about = f"problem {row['problem']}, sample {row['sample']}"
        raise UserError(f"{SAMPLES}: {about} of {row['model']} is not judged at {budget} tokens")
    by_then = row["budgets"][str(budget)]
    correct = by_then["correct"]
    fix = None
    if labels == CORRECTED:
        fix = fix_of(row["suite"], row["language"], row["row"], row["answer"])
    if fix is not None:
        if fix.corrected is None:
            return None
        correct = _right(by_then["said"], fix.corrected, row["language"])
    return Judged(
        correct,
        by_then["format_ok"],
        by_then["cut_off"],
        by_then.get("said"),
        "said" in by_then,
        by_then.get("reward"),
        row["language"],
        min(row["tokens"], budget),
        tuple(by_then.get("repetition", (0, 0))),
        tuple(by_then.get("fidelity", (0, 0))),
    )


def _right(said: str | None, answer: str, language: str) -> bool:
    if said is None:
        return False
    problem = Problem("", answer=answer, language=language)
    return MathVerifier()(problem, rf"\boxed{{{said}}}").correct


def results(
    model: str,
    suite: str,
    rows: Iterable[Row],
    budgets: Sequence[int],
    samples: int,
    splits: Mapping[str, float] | None = None,
) -> list[dict[str, Any]]:
    """One result per language, set of labels and budget, of the first `samples` samples of each
    problem. For a suite with `splits`, it is the mean with these weights, and contains the splits'
    own results."""
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
            **_scored(own, budget, labels, samples, splits or {}),
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


def _scored(
    rows: Sequence[Row], budget: int, labels: str, samples: int, splits: Mapping[str, float]
) -> dict[str, Any]:
    if not splits:
        return _scores(groups(rows, budget, labels), samples)
    own = {s: groups([r for r in rows if r.get("split") == s], budget, labels) for s in splits}
    own = {split: found for split, found in own.items() if found}
    scores = [[average(group) for group in found.values()] for found in own.values()]
    ends = estimate(scores, [splits[split] for split in own]).interval
    parts = {split: _scores(found, samples) for split, found in own.items()}
    return weighted(parts, splits) | {"interval": list(ends)}


def _scores(found: Mapping[str, Sequence[Judged]], samples: int) -> dict[str, Any]:
    every = [sample for group in found.values() for sample in group]
    formed = [sample.format_ok for sample in every]
    averages = [average(group) for group in found.values()]
    repeated, grams = (sum(s.repetition[i] for s in every) for i in (0, 1))
    rewards = [s.reward for s in every if s.reward is not None]
    told = [s.fidelity[0] / s.fidelity[1] for s in every if s.fidelity[1]]
    return {
        "n_problems": len(found),
        "samples": samples,
        **{
            name: mean(map(score, found.values())) if name in counted(every) else None
            for name, score in METRICS.items()
        },
        **({"reward": mean(rewards)} if rewards else {}),
        "pass_curve": pass_curve(found.values(), samples),
        "mean_length": mean(s.tokens for s in every),
        "repetition": repeated / grams if grams else None,
        "language_fidelity": mean(told) if told else None,
        "language_unknown": 1 - len(told) / len(every),
        "format_rate": format_rate(formed),
        "accuracy_given_format": accuracy_given_format([s.correct for s in every], formed),
        "cut_off": sum(sample.cut_off for sample in every) / len(every),
        "interval": list(estimate([averages]).interval),
    }


def pass_curve(found: Iterable[Sequence[Judged]], samples: int) -> list[float]:
    """pass@1, pass@2, ... as far as every problem has enough samples."""
    counts = [(len(group), sum(s.correct for s in group)) for group in found]
    most = min(samples, *(n for n, _ in counts))
    return [mean(pass_at_k(n, right, k) for n, right in counts) for k in range(1, most + 1)]


def refuse_missing(folder: Path, there: Mapping[str, int]) -> None:
    """Raises Damaged if `result.json` was computed from more samples of a language than exist."""
    for row in read(folder):
        language, made = row["language"], row["n_problems"] * row["samples"]
        if made > there.get(language, 0):
            raise Damaged(
                f"{folder / SAMPLES}: {there.get(language, 0)} samples of {language}, but {RESULT}"
                f" was computed from {made}; evaluate again to draw the missing ones"
            )


def write(folder: Path, seconds: float, made: Sequence[Mapping[str, Any]]) -> None:
    """Writes `result.json`; existing results of other languages stay."""
    languages = {row["language"] for row in made}
    others = [row for row in read(folder) if row["language"] not in languages]
    content = {"seconds": seconds, "results": [*others, *made]}
    write_atomically(folder / RESULT, json.dumps(sealed(content), indent=1, ensure_ascii=False))


def split_weights(folder: Path) -> dict[str, float]:
    """The weights of a suite's splits, as the results in a folder record them; empty for a suite
    without splits, and if no results are written yet."""
    parts = [row.get("splits") or {} for row in read(folder)]
    return {split: scores["weight"] for part in parts for split, scores in part.items()}
