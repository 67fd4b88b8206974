"""Computes traces again from a run's checkpoints, on the same problems at each checkpoint."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers.trainer_callback import TrainerState

from opsd.console import log
from opsd.data import problems
from opsd.data.filters import DataReport
from opsd.data.problems import SCANNED, varied
from opsd.data.stream import ProblemStream
from opsd.recipe import schema as recipes
from opsd.recipe.content import refuse_unwritten
from opsd.recipe.train import make_trainer
from opsd.rollout.engines import HF
from opsd.runs import checkpoint
from opsd.runs.files import write_atomically
from opsd.training.examples import training_examples
from opsd.training.traces import trace
from opsd.training.trainer import OPSDTrainer
from opsd.types import Problem, UserError

SAMPLES = 2
"""The maximum number of traced rollouts per problem."""


def retrace(run: Path, steps: Sequence[int], count: int) -> None:
    """Writes `traces/checkpoint-<step>.jsonl` for each step: new rollouts of `count` problems, from
    the dev split if there is one. Step 0 is the model that the run started from.

    Raises UserError if a checkpoint, or the run's recipe, is missing.
    """
    steps = sorted(set(steps))
    _refuse_missing(run, steps)
    refuse_unwritten(str(run / "recipe.yaml"))
    recipe = recipes.load(str(run / "recipe.yaml"))
    quiet = {"report_to": [], "push_to_hub": False, "disable_tqdm": True, "async_rollouts": False}
    recipe = recipe.model_copy(update={"train": recipe.train | quiet})
    train_set, dev_set = problems.load_problems(recipe.data, DataReport())
    head = train_set.head(SCANNED) if isinstance(train_set, ProblemStream) else train_set
    recipe = recipe.model_copy(update={"engine": HF()})  # the run's may not be here
    trainer = make_trainer(recipe, run, train_set, dev_set)
    chosen = varied(recipe.method.prepared(dev_set or head, trainer.args.seed), count)
    for step in steps:  # 0 comes first: it needs no loading
        if step:
            trainer.go_to(run / f"checkpoint-{step}")
        log(f"checkpoint {step}: rollouts of {len(chosen)} problems")
        rows = _traces(trainer, chosen, step, _total_steps(trainer))
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        write_atomically(run / "traces" / f"checkpoint-{step}.jsonl", "".join(lines))


def _traces(
    trainer: OPSDTrainer, chosen: Sequence[Problem], step: int, total: int
) -> list[dict[str, Any]]:
    generator, learner = trainer.generator, trainer.learner
    learner.begin(step, total)
    groups = generator.groups(chosen, step, total)
    rows = trainer.method.source.rows
    made = training_examples(groups, trainer.setup.terms, generator.sampler, step, rows)
    model = trainer.accelerator.unwrap_model(trainer.model)
    return [
        trace(example, learner, model, trainer.processing_class, step)
        for example in made
        if example.taught and example.sample < SAMPLES
    ]


def _total_steps(trainer: OPSDTrainer) -> int:
    """The number of steps of the whole run, which schedules depend on; for epochs, a checkpoint
    records it."""
    newest = checkpoint.newest(trainer.run.path)
    if trainer.args.max_steps > 0 or newest is None:
        return max(trainer.args.max_steps, 1)
    return TrainerState.load_from_json(str(newest / "trainer_state.json")).max_steps


def _refuse_missing(run: Path, steps: Sequence[int]) -> None:
    if not (run / "recipe.yaml").is_file():
        raise UserError(f"{run} has no recipe.yaml: only a run of `opsd train` has checkpoints")
    there = checkpoint.complete(run)
    for step in steps:
        if step and step not in there:
            known = ", ".join(map(str, [0, *there]))
            half = "whole " if (run / f"checkpoint-{step}").is_dir() else ""
            raise UserError(f"{run} has no {half}checkpoint {step}; --checkpoint may be: {known}")
