"""Two specialists that teach each other, compared with other ways to train them.

    python -m benchmarks.peers [--steps 30 --seeds 0 1 2]   about two minutes a seed

The built-in models `miniature-swahili` and `miniature-yoruba` train on the problems of both
languages: with OPCoD; with OPCoD without remarks, each model alone; and one way, where a frozen
copy of the other specialist scores the rollouts over the whole vocabulary. Problems, steps, batch
and learning rate are the same. Prints one JSON row per arm and model: avg@4 on held-out problems of
both languages, mean over seeds, with the lowest and the highest. `ratio` is the score in the
model's weak language over that before training. Remarks cost tokens: arms are equal in steps.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from benchmarks.arms import SETTINGS
from benchmarks.rows import Row, finish, judged, machine, note
from opsd import OPSDConfig, OPSDTrainer, methods
from opsd.methods import Method
from opsd.methods.signals import Distill, Teacher
from opsd.miniature.world import problems
from opsd.objective.divergences import jsd
from opsd.prompts.contexts import OwnPrompt
from opsd.rollout.sources import OnPolicy
from opsd.teacher.weights import External
from opsd.training.peers import train_peers

LANGUAGES = ("swa", "yor")
PAIR = {"swahili": "miniature-swahili", "yoruba": "miniature-yoruba"}
POOR = {"swahili": "yor", "yoruba": "swa"}
GROUP = 8
Scores = dict[str, dict[str, float]]
"""By model, by language."""


def one_way(teacher: str) -> Method:
    """On-policy distillation from another model, which reads the student's prompt."""
    return Method(
        name="one_way",
        source=OnPolicy(group=GROUP),
        signal=Distill(Teacher(OwnPrompt(), weights=External(teacher)), jsd(0.5)),
    )


def trainers(method: dict[str, Method], folder: Path, seed: int, steps: int, rate: float) -> Any:
    """One trainer per specialist, on the problems of both languages."""
    rows = [p for pair in zip(*map(_train_set, LANGUAGES), strict=True) for p in pair]

    def made(name: str) -> OPSDTrainer:
        args = OPSDConfig(
            output_dir=str(folder / name),
            max_steps=steps,
            seed=seed,
            learning_rate=rate,
            per_device_train_batch_size=32,
            max_completion_length=48,
            temperature=1.0,
            **SETTINGS,
        )
        return OPSDTrainer(PAIR[name], method[name], args, rows)

    return {name: made(name) for name in PAIR}


def _train_set(language: str) -> list[Any]:
    return problems("miniature", "train", language)


def scores(both: dict[str, OPSDTrainer], count: int) -> Scores:
    """avg@4 on held-out problems."""
    held_out = [p for code in LANGUAGES for p in problems("miniature", "test", code, count)]
    made = {}
    for name, one in both.items():
        found = one.evaluate(held_out)
        made[name] = {code: found[f"eval_avg@k/{code}"] for code in LANGUAGES}
    return made


def tried(arm: str, seed: int, options: Any) -> tuple[Scores, dict[str, int]]:
    """The scores of an arm after training, and the tokens that each model generated in it."""
    opcod = methods.opcod(group=GROUP, max_tokens=64)
    arms = {
        "before": dict.fromkeys(PAIR, opcod),
        "opcod": dict.fromkeys(PAIR, opcod),
        "without remarks": dict.fromkeys(PAIR, replace(opcod, authors=())),
        "one way": dict(zip(PAIR, map(one_way, reversed(PAIR.values())), strict=True)),
    }
    with tempfile.TemporaryDirectory() as folder:
        both = trainers(arms[arm], Path(folder), seed, options.steps, options.rate)
        if arm == "opcod":
            train_peers(both)
        elif arm != "before":
            for one in both.values():
                one.train()
        tokens = {n: one.generator.sampler.counts.generated_tokens for n, one in both.items()}
        return scores(both, options.problems), tokens


def rows(seeds: list[int], options: Any) -> list[Row]:
    """One row per arm and model."""
    found: dict[str, list[tuple[Scores, dict[str, int]]]] = {}
    for arm in ("before", "opcod", "without remarks", "one way"):
        for seed in seeds:
            found.setdefault(arm, []).append(tried(arm, seed, options))
            note(f"{arm}, seed {seed}: {found[arm][-1]}")
    made = []
    for arm, outcomes in found.items():
        for name, poor in POOR.items():
            by_code = {code: [scored[name][code] for scored, _ in outcomes] for code in LANGUAGES}
            ranges = {c: [round(min(v), 3), round(max(v), 3)] for c, v in by_code.items()}
            means = {code: fmean(values) for code, values in by_code.items()}
            before = fmean(scored[name][poor] for scored, _ in found["before"])
            made.append(
                judged(
                    f"{arm}: the {name} specialist",
                    means[poor] / before,
                    **{f"avg@4/{code}": round(mean, 3) for code, mean in means.items()},
                    **{f"range/{code}": ends for code, ends in ranges.items()},
                    tokens=round(fmean(tokens[name] for _, tokens in outcomes)),
                )
            )
    return made


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rate", type=float, default=1e-4)
    parser.add_argument("--problems", type=int, default=60)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--json", type=Path, help="also write rows and machine to this file")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    before = machine()
    return finish(rows(options.seeds, options), options.json, before)


if __name__ == "__main__":
    sys.exit(main())
