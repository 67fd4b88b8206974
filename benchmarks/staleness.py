"""Benefit and cost of generating ahead: steps per hour, and the score at equal tokens.

    python -m benchmarks.staleness --url http://localhost:8000 [--seeds 0 1 --tokens 24000]

The built-in model with LoRA learns Swahili by COPSD, and a `vllm serve` of it generates
(docs/engines.md, with `--max-loras 5`). One run per seed and staleness: with 0, a step's rollouts
are generated when the step starts; with n, up to n steps ahead. Rounds of all four alternate.
`ratio` is the steps per hour of a staleness divided by those of 0 in the same round; there are no
targets.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from statistics import fmean, median
from typing import Any

from peft import LoraConfig
from transformers import TrainerCallback

from benchmarks.rows import Row, finish, judged, machine, note
from opsd import OPSDConfig, OPSDTrainer, VLLMServer, methods
from opsd.miniature.world import problems
from opsd.objective.divergences import reverse_kl
from opsd.prompts.contexts import with_prompts
from opsd.rollout.sources import OnPolicy

STALENESS = (0, 1, 2, 4)
WARM = 3
"""Steps that are not timed."""
PROBLEMS, SAMPLES = 150, 2


class Seconds(TrainerCallback):
    """When steps ended, and the staleness that they logged."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.staleness: list[float] = []

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.ends.append(time.perf_counter())

    def on_log(self, *args: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        self.staleness += [value for key, value in (logs or {}).items() if key == "staleness/mean"]


def trained(url: str, staleness: int, seed: int, tokens: int) -> dict[str, float]:
    """The seconds per step of a run, its score on held-out problems, and the age of its
    rollouts."""
    clock = Seconds()
    method = with_prompts(
        methods.copsd(divergence=reverse_kl),
        {},
        prefill="",
        template_options={"enable_thinking": False},
    )
    with tempfile.TemporaryDirectory() as folder:
        trainer = OPSDTrainer(
            model="miniature",
            method=method,
            args=OPSDConfig(
                output_dir=folder,
                max_steps=10_000,
                max_generated_tokens=tokens,
                per_device_train_batch_size=16,
                gradient_accumulation_steps=1,
                gradient_checkpointing=False,
                learning_rate=1e-3,
                lr_scheduler_type="constant",
                max_completion_length=48,
                async_rollouts={"max_staleness": staleness} if staleness else False,
                seed=seed,
                use_cpu=True,
                save_strategy="no",
                logging_steps=1,
                collapse="ignore",
                rollout_log_steps=0,
                report_to=[],
                disable_tqdm=True,
            ),
            train_dataset=problems("miniature", "train", "swa"),
            peft_config=LoraConfig(
                task_type="CAUSAL_LM", r=16, lora_alpha=32, target_modules="all-linear"
            ),
            engine=VLLMServer(url),
            callbacks=[clock],
        )
        trainer.train()
        sampler = trainer.generator.sampler.outside_training(seed)
        test = problems("miniature", "test", "swa", PROBLEMS)
        groups = sampler.sample(test, OnPolicy(group=SAMPLES), step=0, phase="test")
    steps = [b - a for a, b in zip(clock.ends[WARM:], clock.ends[WARM + 1 :], strict=False)]
    return {
        "step_s": median(steps),
        "steps": len(clock.ends),
        "avg": fmean(group.pass_rate for group in groups),
        "staleness": fmean(clock.staleness) if clock.staleness else 0.0,
    }


def compared(found: dict[int, list[dict[str, float]]]) -> list[Row]:
    """One row per staleness, over all rounds."""
    rows = []
    for staleness, runs in found.items():
        faster = [own["step_s"] for own in found[0]]
        ratios = [base / run["step_s"] for base, run in zip(faster, runs, strict=True)]
        rows.append(
            judged(
                "staleness",
                median(ratios),
                max_staleness=staleness,
                ratios=[round(ratio, 3) for ratio in ratios],
                steps_per_hour=round(3600 / median(run["step_s"] for run in runs)),
                avg=[round(run["avg"], 3) for run in runs],
                mean_staleness=round(fmean(run["staleness"] for run in runs), 2),
                steps=[run["steps"] for run in runs],
            )
        )
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--url", default="http://localhost:8000")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--tokens", type=int, default=24_000)
    parser.add_argument("--json", type=Path)
    told = parser.parse_args()
    before = machine()
    found: dict[int, list[dict[str, float]]] = {staleness: [] for staleness in STALENESS}
    for seed in told.seeds:
        for staleness in STALENESS:
            found[staleness].append(run := trained(told.url, staleness, seed, told.tokens))
            note(f"seed {seed}, staleness {staleness}: {run}")
    return finish(compared(found), told.json, before)


if __name__ == "__main__":
    sys.exit(main())
