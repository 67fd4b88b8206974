"""Compare methods in the built-in world: each is trained for the same number of steps from the same
model, then tested on held-out problems. Reports accuracy with intervals over problems and seeds.

A benchmark names its arms in a `Contest`; `main` runs those that its file does not contain yet.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.rows import Row, finish, judged, machine, note
from opsd import OPSDConfig, OPSDTrainer
from opsd.grade.intervals import CHANGE, estimate
from opsd.methods import Method
from opsd.miniature.stories import stories
from opsd.miniature.world import HORIZON, WORLDS, problem, problems
from opsd.rollout.sources import OnPolicy
from opsd.types import Problem

SETTINGS: dict[str, Any] = {
    "gradient_accumulation_steps": 1,
    "lr_scheduler_type": "constant",
    "max_grad_norm": 1.0,
    "top_p": 1.0,
    "top_k": 0,
    "collapse": "ignore",
    "save_strategy": "no",
    "report_to": [],
    "disable_tqdm": True,
    "logging_steps": 1,
    "rollout_log_steps": 0,
    "trace_steps": 0,
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
}


@dataclass(frozen=True)
class Arm:
    """The method of an arm, the rollouts of a step, and the settings that differ from the other
    arms."""

    method: Callable[[], Method]
    rollouts: int
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class Contest:
    """A built-in model, the English problems of its world, and the arms. `temperature` applies to
    rollouts, and to the test unless it is greedy."""

    world: str
    arms: Mapping[str, Arm]
    steps: int
    learning_rate: float
    temperature: float
    tested_at: float = 0.0


def test_problems(world: str, count: int) -> list[Problem]:
    """Distinct problems of the test split."""
    settings, found = WORLDS[world], dict[str, Problem]()
    for story in islice(stories(world, "test", settings.steps, settings.largest), 50 * count):
        found.setdefault(f"{story.template} {story.numbers}", problem(world, "eng", story))
        if len(found) == count:
            break
    return list(found.values())


def run(contest: Contest, name: str, seed: int, given: list[Problem]) -> dict[str, Any]:
    """Train and test one arm. A name that is not an arm's tests the base model."""
    start = time.perf_counter()
    arm = contest.arms.get(name) or next(iter(contest.arms.values()))
    own: dict[str, Any] = {
        **SETTINGS,
        "max_steps": contest.steps,
        "per_device_train_batch_size": arm.rollouts,
        "learning_rate": contest.learning_rate,
        "temperature": contest.temperature,
        "max_completion_length": HORIZON[contest.world],
        "seed": seed,
        **arm.settings,
    }
    with tempfile.TemporaryDirectory() as folder:
        args = OPSDConfig(output_dir=folder, **own)
        known = problems(contest.world, "train", "eng")
        trainer = OPSDTrainer(contest.world, arm.method(), args, known)
        if name in contest.arms:
            trainer.train()
        logged = [row for row in trainer.state.log_history if "loss" in row]
        sampler = trainer.generator.sampler.outside_training(seed)
        how = replace(sampler.sampling, temperature=contest.tested_at)
        groups = sampler.sample(given, OnPolicy(), 0, "test", how)
    right = [int(group.pass_rate > 0) for group in groups]
    curve = {key: [row.get(key) for row in logged] for key in ("divergence", "loss", "grad_norm")}
    seconds = round(time.perf_counter() - start, 1)
    note(f"{name}, seed {seed}: {sum(right) / len(right):.3f} in {seconds} s")
    return {"arm": name, "seed": seed, "right": right, "curve": curve, "seconds": seconds}


def rows_of(runs: list[dict[str, Any]]) -> list[Row]:
    """One row per arm: its fraction of right answers, and its gain over the base model, paired by
    problem, with 95 % intervals."""
    by_arm: dict[str, list[dict[str, Any]]] = {}
    for one in sorted(runs, key=lambda one: one["seed"]):
        by_arm.setdefault(one["arm"], []).append(one)
    base = np.array(by_arm["base"][0]["right"], dtype=float)
    return [_row(arm, own, base) for arm, own in by_arm.items()]


def _row(arm: str, runs: list[dict[str, Any]], base: np.ndarray) -> Row:
    right = np.array([one["right"] for one in runs], dtype=float)
    share, gain = estimate([right]), estimate([right - base], bounds=CHANGE)
    about: dict[str, Any] = {
        "share": round(share.value, 3),
        "interval": [round(x, 3) for x in share.interval],
        "gain": round(gain.value, 3),
        "gain_interval": [round(x, 3) for x in gain.interval],
        "by_seed": [round(float(x), 3) for x in right.mean(1)],
    }
    ends = [one["curve"]["divergence"][-1] for one in runs if one["curve"]["divergence"]]
    known = [end for end in ends if end is not None and math.isfinite(end)]
    if known:
        losses = [x for one in runs for x in one["curve"]["loss"] if x is not None]
        about["divergence_at_the_end"] = round(float(np.mean(known)), 4)
        about["share_of_negative_losses"] = round(float(np.mean(np.array(losses) < 0)), 2)
    return judged(arm, share.value / max(base.mean(), 1e-9), **about)


def main(contest: Contest, description: str | None) -> int:
    """The command line of a benchmark of this kind."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arms", nargs="*", default=["base", *contest.arms])
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--problems", type=int, default=1000)
    parser.add_argument("--runs", type=Path, help="a JSON-lines file in which runs are stored")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    before, given = machine(), test_problems(contest.world, options.problems)
    kept = options.runs.read_text().splitlines() if options.runs and options.runs.exists() else []
    runs = [json.loads(line) for line in kept]
    done = {(one["arm"], one["seed"]) for one in runs}
    for seed in options.seeds:
        for name in options.arms:
            if (name, seed) in done or (name == "base" and seed != options.seeds[0]):
                continue
            runs.append(run(contest, name, seed, given))
            if options.runs:
                with options.runs.open("a") as file:
                    file.write(json.dumps(runs[-1]) + "\n")
    return finish(rows_of(runs), options.json, before)
