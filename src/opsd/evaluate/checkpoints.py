"""Which of a run's checkpoints to keep: chosen on dev, reported on test; and how much a choice on
test would flatter."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from opsd.evaluate.results import average, groups
from opsd.evaluate.samples import Row, judged_rows, keyed
from opsd.evaluate.weighted import shares
from opsd.runs.json_files import number, rows
from opsd.suites.files import Suite
from opsd.suites.labels import UPSTREAM
from opsd.types import Problem

_HALVES = 1_000
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")

Stratum = tuple[str, str]
"""A language, and a split in it ("" for a suite without splits)."""

Scores = Mapping[Stratum, Mapping[str, float]]
"""avg@k by stratum and problem."""


def selections(
    folders: Mapping[str, Path],
    suite: Suite,
    problems: Sequence[Problem],
    samples: int,
    budget: int,
) -> list[dict[str, Any]]:
    """One selection per run with several evaluated checkpoints, over the first `samples` samples of
    each of these problems. `folders` maps each model to the folder of its samples, which may also
    contain samples of other problems. A model is a checkpoint if it lies in a run folder under the
    Trainer's name for checkpoints."""
    keys = keyed(problem for problem in problems if problem.answer)
    spoken = {problem.language for problem in keys.values()}
    aside = set(suite.aside) if spoken - set(suite.aside) else set()
    runs: dict[Path, dict[int, Scores]] = defaultdict(dict)
    for model, folder in folders.items():
        step = _CHECKPOINT.fullmatch(Path(model).name)
        if step and (Path(model).parent / "metrics.jsonl").is_file():
            asked = (
                row
                for row in judged_rows(folder)
                if row["problem"] in keys
                and row["sample"] < samples
                and row["language"] not in aside
            )
            runs[Path(model).parent][int(step[1])] = scores(asked, budget)
    return [
        selection(made, dev_scores(run), suite.splits) | {"run": str(run), "budget": budget}
        for run, made in runs.items()
        if len(made) > 1
    ]


def scores(rows: Iterable[Row], budget: int) -> Scores:
    """avg@k of every problem, by stratum, with the upstream labels."""
    strata: dict[Stratum, list[Row]] = defaultdict(list)
    for row in rows:
        strata[row["language"], str(row.get("split", ""))].append(row)
    return {
        stratum: {key: average(group) for key, group in groups(own, budget, UPSTREAM).items()}
        for stratum, own in strata.items()
    }


def dev_scores(run: Path) -> dict[int, float]:
    """avg@k on the dev split by step, from a run's log."""
    scored = (
        (number(row, "step"), number(row, "eval_avg@k")) for row in rows(run / "metrics.jsonl")
    )
    return {int(step): score for step, score in scored if step is not None and score is not None}


def selection(
    checkpoints: Mapping[int, Scores], dev: Mapping[int, float], weights: Mapping[str, float]
) -> dict[str, Any]:
    """Steps with their dev and test scores; the step chosen on dev (None without dev scores), the
    best on test, and by how much a choice on test flatters. Only problems that all checkpoints have
    answered count. Languages have equal weights, the splits of each language their `weights`."""
    steps = sorted(checkpoints)
    strata = _matrices([checkpoints[step] for step in steps])
    matrices, parts = list(strata.values()), _parts(list(strata), weights)
    test = np.average([matrix.mean(1) for matrix in matrices], axis=0, weights=parts)
    told = [
        {"step": step, "dev": dev.get(step), "test": float(score)}
        for step, score in zip(steps, test, strict=True)
    ]
    measured = [row for row in told if row["dev"] is not None]
    return {
        "checkpoints": told,
        "chosen_on_dev": max(measured, key=lambda row: row["dev"]) if measured else None,
        "best_on_test": max(told, key=lambda row: row["test"]),
        "optimism": optimism(matrices, parts),
    }


def optimism(matrices: Sequence[np.ndarray], parts: Sequence[float], seed: int = 0) -> float:
    """How much higher the best checkpoint's score is on the problems that it was chosen on than on
    other problems. The problems are split into random halves: one half chooses, the other one
    judges. The mean difference is divided by the root of two, since a half is noisier by that
    factor than all problems, on which the real choice is made.

    `matrices` contains avg@k, [checkpoint, problem], one matrix per stratum; `parts` are the
    strata's shares of the score. Strata with fewer than two problems are left out; the result is 0
    if none is left."""
    known = [(m, part) for m, part in zip(matrices, parts, strict=True) if m.shape[1] > 1]
    if not known:
        return 0.0
    generator = np.random.default_rng(seed)
    matrices, parts = zip(*known, strict=True)
    gaps = []
    for _ in range(_HALVES):
        halves = [_halves(matrix, generator) for matrix in matrices]
        choosing, judging = np.average(halves, axis=0, weights=parts)
        best = choosing.argmax()
        gaps.append(choosing[best] - judging[best])
    return float(np.mean(gaps) / 2**0.5)


def _halves(matrix: np.ndarray, generator: Any) -> tuple[np.ndarray, np.ndarray]:
    order = generator.permutation(matrix.shape[1])
    half = matrix.shape[1] // 2
    return matrix[:, order[:half]].mean(1), matrix[:, order[half:]].mean(1)


def _parts(strata: Sequence[Stratum], weights: Mapping[str, float]) -> list[float]:
    """The share of each stratum in the score."""
    splits: dict[str, list[str]] = defaultdict(list)
    for language, split in strata:
        splits[language].append(split)
    made = {language: shares(own, weights, "this suite") for language, own in splits.items()}
    return [made[language][split] / len(made) for language, split in strata]


def _matrices(checkpoints: Sequence[Scores]) -> dict[Stratum, np.ndarray]:
    """Per stratum that all checkpoints have, their scores on the problems that all answered."""
    first, *others = checkpoints
    made = {}
    for stratum, own in first.items():
        known = [other.get(stratum, {}) for other in others]
        keys = [key for key in own if all(key in other for other in known)]
        if keys:
            made[stratum] = np.array([[one[key] for key in keys] for one in (own, *known)])
    return made
