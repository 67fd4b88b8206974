"""Self-distillation of a masked diffusion model beside what it is measured against.

    python -m benchmarks.diffusion [--arms base d_opsd ... --seeds 0 1 2 --steps 40 --json out.json]

The built-in diffusion model, in blocks of four, trained whole for as many steps of 64 rollouts (or
references) by every arm; then 1,000 test problems that no arm has seen, greedily. Per arm the share
of right answers with its 95 % interval over problems and seeds, and the difference from the base,
paired by problem. `ratio` is the arm's share divided by the base's; there are no targets. Arms that
are stored in the file already are not run again.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.rows import Row, finish, judged, machine, note
from opsd import OPSDConfig, OPSDTrainer, methods
from opsd.grade.intervals import CHANGE, estimate
from opsd.methods import Method
from opsd.methods.signals import Distill
from opsd.miniature.stories import stories
from opsd.miniature.world import WORLDS, problem, problems
from opsd.objective.divergences import reverse_kl
from opsd.objective.support import Full
from opsd.prompts.contexts import Filtered, LaterState
from opsd.rollout.engine import Decoding
from opsd.rollout.sources import OnPolicy
from opsd.types import Problem

WORLD, ROLLOUTS, TESTED = "miniature-diffusion", 64, 1000
BLOCKS = Decoding(block_length=4, tokens_per_step=2)
_OWN: dict[str, Any] = {"decoding": BLOCKS, "reuse": 1}


def _gated(method: Method) -> Method:
    """dOPSD that learns from right completions alone."""
    signal = method.signal
    assert isinstance(signal, Distill)
    teacher = replace(signal.teacher, context=Filtered(LaterState(), "right"))
    return replace(method, signal=replace(signal, teacher=teacher))


# Two tries of 32 problems are as many rollouts at most as the other arms have.
ARMS: dict[str, tuple[Callable[[], Method], int]] = {
    "d-OPSD": (lambda: methods.d_opsd(reverse_kl, Full(), attempts=2, **_OWN), 32),
    "d-OPSD, all of the suffix": (
        lambda: methods.d_opsd(reverse_kl, Full(), share=1.0, attempts=2, **_OWN),
        32,
    ),
    "d-OPSD, clipped": (lambda: methods.d_opsd(attempts=2, **_OWN), 32),
    "dOPSD": (
        lambda: _gated(methods.dopsd_trajectory(states=4, masked_above=0.0, decoding=BLOCKS)),
        64,
    ),
    "trajectory GRPO": (lambda: methods.trajectory_grpo(decoding=BLOCKS), 64),
    "diffu-GRPO": (lambda: methods.diffu_grpo(group=8, decoding=BLOCKS), 64),
    "SFT": (methods.diffusion_sft, 64),
}
"""A method, and the rows of a step that it asks for."""


def test_problems(count: int) -> list[Problem]:
    """Distinct ones of the test split."""
    world = WORLDS[WORLD]
    found: dict[str, Problem] = {}
    for story in islice(stories(WORLD, "test", world.steps, world.largest), 20 * count):
        made = problem(WORLD, "eng", story)
        found.setdefault(f"{story.template} {story.numbers}", made)
        if len(found) == count:
            break
    return list(found.values())


def trained(arm: str, seed: int, steps: int, rate: float, folder: Path) -> OPSDTrainer:
    method, rows = ARMS[arm]
    args = OPSDConfig(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=1,
        learning_rate=rate,
        lr_scheduler_type="constant",
        max_grad_norm=1.0,
        temperature=0.9,
        top_p=1.0,
        top_k=0,
        max_completion_length=32,
        seed=seed,
        collapse="ignore",
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        logging_steps=1,
        rollout_log_steps=0,
        trace_steps=0,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
    )
    return OPSDTrainer(WORLD, method(), args, problems(WORLD, "train", "eng"))


def tested(trainer: OPSDTrainer, given: list[Problem]) -> list[int]:
    """Whether each problem is answered right, greedily."""
    own = trainer.generator.sampler.outside_training(0)
    greedy = replace(own.sampling, temperature=0.0)
    groups = own.sample(given, OnPolicy(), 0, "test", greedy)
    return [int(group.pass_rate > 0) for group in groups]


def run(arm: str, seed: int, steps: int, rate: float, given: list[Problem]) -> dict[str, Any]:
    """One training and its test; without an arm of that name the base is tested."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        trainer = trained(arm if arm in ARMS else "SFT", seed, steps, rate, Path(folder))
        if arm in ARMS:
            trainer.train()
        logged = [row for row in trainer.state.log_history if "loss" in row]
        right = tested(trainer, given)
    known = ("divergence", "loss", "grad_norm")
    curve = {k: [row.get(k) for row in logged] for k in known}
    seconds = round(time.perf_counter() - start, 1)
    note(f"{arm}, seed {seed}: {sum(right) / len(right):.3f} in {seconds} s")
    return {"arm": arm, "seed": seed, "right": right, "curve": curve, "seconds": seconds}


def rows_of(runs: list[dict[str, Any]]) -> list[Row]:
    by_arm: dict[str, list[dict[str, Any]]] = {}
    for one in runs:
        by_arm.setdefault(one["arm"], []).append(one)
    base = np.array(by_arm["base"][0]["right"], dtype=float)
    rows = []
    for arm, own in by_arm.items():
        right = np.array([one["right"] for one in sorted(own, key=lambda x: x["seed"])], float)
        share, gain = estimate([right]), estimate([right - base], bounds=CHANGE)
        about = {
            "share": round(share.value, 3),
            "interval": [round(x, 3) for x in share.interval],
            "gain": round(gain.value, 3),
            "gain_interval": [round(x, 3) for x in gain.interval],
            "by_seed": [round(float(x), 3) for x in right.mean(1)],
        }
        losses = [x for one in own for x in one["curve"]["loss"] if x is not None]
        ends = [one["curve"]["divergence"][-1] for one in own if one["curve"]["divergence"]]
        known = [x for x in ends if x is not None and math.isfinite(x)]
        if known:
            about["divergence_at_the_end"] = round(float(np.mean(known)), 4)
            about["steps_with_a_negative_loss"] = sum(x < 0 for x in losses)
        rows.append(judged(arm, share.value / max(base.mean(), 1e-9), **about))
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arms", nargs="*", default=["base", *ARMS])
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--problems", type=int, default=TESTED)
    parser.add_argument("--runs", type=Path, help="a JSON-lines file that runs are kept in")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    before, given = machine(), test_problems(options.problems)
    kept = options.runs.read_text().splitlines() if options.runs and options.runs.exists() else []
    runs = [json.loads(line) for line in kept]
    done = {(one["arm"], one["seed"]) for one in runs}
    for seed in options.seeds:
        for arm in options.arms:
            if (arm, seed) in done or (arm == "base" and seed != options.seeds[0]):
                continue
            runs.append(run(arm, seed, options.steps, options.learning_rate, given))
            if options.runs:
                with options.runs.open("a") as file:
                    file.write(json.dumps(runs[-1]) + "\n")
    return finish(rows_of(runs), options.json, before)


if __name__ == "__main__":
    sys.exit(main())
