"""Trains a recipe: from its values to a trained model in a run folder."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from transformers import TrainerCallback

from opsd.console import log, speaking
from opsd.data import problems
from opsd.data.filters import DataReport
from opsd.data.stream import ProblemStream
from opsd.languages import registry as languages
from opsd.lm.loading import load_model
from opsd.methods.description import describe
from opsd.recipe import schema as recipes
from opsd.recipe.schema import Recipe
from opsd.recipe.summary import summary
from opsd.runs import checkpoint
from opsd.runs.disk import writing
from opsd.runs.environment import environment
from opsd.runs.files import write_atomically
from opsd.runs.folder import RunFolder
from opsd.training.checks import nothing_to_resume, settings_errors
from opsd.training.config import OPSDConfig
from opsd.training.peers import refuse_unequal, sharing_parameters, train_peers
from opsd.training.profiling import Profiling
from opsd.training.trainer import OPSDTrainer
from opsd.types import Problem, UserError

_MAY_CHANGE = {
    # How a step is divided among processes and passes.
    *("per_device_train_batch_size", "gradient_accumulation_steps", "rollouts_per_step"),
    *("max_tokens_per_pass", "packing", "generation_batch_tokens"),
    # How long the run is, and what is logged and shown from here on.
    *("max_steps", "num_train_epochs", "max_generated_tokens", "collapse", "collapse_patience"),
    *("logging_steps", "save_steps", "save_total_limit", "eval_steps", "eval_strategy"),
    "eval_on_start",
    *("save_strategy", "trace_steps", "rollout_log_steps", "report_to", "run_name", "project"),
    *("disable_tqdm", "push_to_hub", "hub_model_id", "hub_strategy", "hub_token"),
    *("hub_private_repo", "hub_always_push", "load_best_model_at_end", "metric_for_best_model"),
}
"""The keys of `train` that may change when a run is resumed, since its training so far does not
depend on them."""

_REACHED = ("url", "folder", "timeout", "concurrency")
"""An engine's keys for its connection, on which its completions do not depend."""


def train(
    recipe: Recipe,
    output: Path,
    *,
    resume: bool = False,
    profile: bool = False,
    callbacks: Sequence[TrainerCallback] = (),
) -> OPSDTrainer:
    """Train a recipe. The trained model is written to `output/model`, and, with `profile`, one
    step's trace and table to `output/profile`. The trainer calls `callbacks` too.

    Raises UserError if `output` already contains a run and `resume` is not set, if `resume` is set
    with a different recipe, and for a recipe of two models; RunFailed if the disk is full.
    """
    _refuse_pairs(recipe)
    with _holding(output) as run:
        _claim(recipe, run, resume)
        begun = time.monotonic()
        trainer = _begin(recipe, run, resume, profile, callbacks=callbacks)
        trainer.train(resume_from_checkpoint=resume)
        return _finish(trainer, recipe, begun)


def train_pair(
    recipe: Recipe, output: Path, *, resume: bool = False, profile: bool = False
) -> dict[str, OPSDTrainer]:
    """Train a recipe of two `peers`, each into a folder of its name below `output`. They are
    ordinary runs, saved at the same steps. If both are adapters on the same base, it is in memory
    once.

    Raises UserError like `train`, and for two models that cannot be trained together.
    """
    pair = recipe.peers
    arguments = {
        name: _arguments(own, output / name, dev=bool(own.data.dev)) for name, own in pair.items()
    }
    refuse_unequal({name: (own.method, arguments[name]) for name, own in pair.items()})
    trainers = {}
    with contextlib.ExitStack() as stack:
        begun = time.monotonic()
        runs = {name: stack.enter_context(_holding(output / name)) for name in pair}
        for name, own in pair.items():
            _claim(own, runs[name], resume)
        models = _models(list(pair.values()), bf16=any(bool(x.bf16) for x in arguments.values()))
        for (name, own), model in zip(pair.items(), models, strict=True):
            with speaking(name):
                trainers[name] = _begin(own, runs[name], resume, profile, model)
        train_peers(trainers, resume)
        return {name: _finish(own, pair[name], begun) for name, own in trainers.items()}


@contextlib.contextmanager
def _holding(output: Path) -> Iterator[RunFolder]:
    run = RunFolder(output)
    main = os.environ.get("RANK", "0") == "0"
    with writing(output), run.held() if main else contextlib.nullcontext():
        yield run


def _refuse_pairs(recipe: Recipe) -> None:
    """Refuses a recipe that needs two models."""
    alone = [author for author in recipe.method.authors if author.needs_peer]
    if recipe.peers or alone:
        raise UserError(
            f"{recipe.method.name} is for two models that write for each other: name both, each"
            " with its own keys, under 'peers'"
        )


def _models(pair: Sequence[Recipe], *, bf16: bool) -> list[Any]:
    """The base models of two peers, which share their tensors if both are adapters on the same
    base. Otherwise None for each, and its trainer loads the model."""
    one, other = (recipe.model for recipe in pair)
    alike = one.lora and other.lora and one.name == other.name and one.options == other.options
    if not alike:
        return [None, None]
    base = load_model(one.name, bf16=bf16, **one.options)
    return [base, sharing_parameters(base)]


def _begin(
    recipe: Recipe,
    run: RunFolder,
    resume: bool,
    profile: bool,
    model: Any = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> OPSDTrainer:
    """Build the trainer of a run, and record in the run's folder what it trains on."""
    output = run.path
    account = DataReport()
    train_set, dev_set = problems.load_problems(recipe.data, account)
    _same_data(account, output / "data.json", resume)
    trainer = make_trainer(recipe, output, train_set, dev_set, model=model, callbacks=callbacks)
    if trainer.args.should_save:
        record(recipe, output, trainer.args.seed)
        languages.keep(recipe.data.spellings, output)
        log(describe(recipe.method, trainer.args.temperature))
        log(f"a step: {trainer.setup.shape.described}")
        trained = trainer.model.num_parameters(only_trainable=True)
        log(f"{trained:,} of {trainer.model.num_parameters():,} parameters are trained")
        log(_said_of(train_set, dev_set, account) + f"; run folder {output}")
        trainer.add_callback(WriteAccount(account, output / "data.json"))
        if profile:
            trainer.add_callback(Profiling(output / "profile"))
    return trainer


def _finish(trainer: OPSDTrainer, recipe: Recipe, begun: float) -> OPSDTrainer:
    """Write the trained model, and log the run's summary."""
    trainer.finish()
    if trainer.args.should_save:
        took, history = time.monotonic() - begun, trainer.state.log_history
        for line in summary(recipe, trainer.run.path, history, took, trainer.best_step):
            log(line)
    return trainer


class WriteAccount(TrainerCallback):
    """Keeps `data.json` up to date: a stream's rows are counted as they are read (by the first
    process, only its own)."""

    def __init__(self, account: DataReport, path: Path) -> None:
        self.account, self.path = account, path

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        write_atomically(self.path, json.dumps(self.account.as_dict(), indent=1))

    on_save = on_train_end = on_train_begin


def _same_data(account: DataReport, written: Path, resume: bool) -> None:
    """Refuses to resume a run with problems other than those it started with."""
    if not (resume and written.is_file()):
        return
    try:
        before = json.loads(written.read_text("utf-8"))["digest"]
    except (ValueError, KeyError, TypeError):
        return  # nothing to compare with
    if before != account.digest:
        raise UserError(
            f"the data has changed since {written.parent} began (see {written}): put it back, or"
            " start a new run with another --output"
        )


def _said_of(train_set: Any, dev_set: Sequence[Problem], account: DataReport) -> str:
    """A description of the run's problems, and of the rows that are left out."""
    if isinstance(train_set, ProblemStream):
        return f"problems are streamed, {len(dev_set):,} for dev; data.json counts them"
    languages = Counter(problem.language for problem in train_set)
    told = ", ".join(f"{code} {count:,}" for code, count in languages.items())
    return "\n".join(
        [*account.lines(), f"{len(train_set):,} problems ({told}), {len(dev_set):,} for dev"]
    )


def record(recipe: Recipe, output: Path, seed: int) -> None:
    """Record the run: `recipe.yaml`, resolved, and `env.json`."""
    about = environment() | {"seed": seed, "model": recipe.model.name}
    write_atomically(output / "env.json", json.dumps(about, indent=1))
    write_atomically(output / "recipe.yaml", recipes.dump(recipe))


def make_trainer(
    recipe: Recipe,
    output: Path,
    train_set: Sequence[Problem] | ProblemStream,
    dev_set: Sequence[Problem] = (),
    callbacks: Sequence[Any] = (),
    model: Any = None,
) -> OPSDTrainer:
    """The trainer that a recipe describes, on problems that are already loaded; `model` is the
    recipe's model, if it is already loaded. The caller writes the recipe, and the model at the
    end."""
    adapter = None
    if recipe.model.lora is not None:
        from peft import LoraConfig

        adapter = LoraConfig(task_type="CAUSAL_LM", **recipe.model.lora.model_dump())
    trainer = OPSDTrainer(
        model=recipe.model.name if model is None else model,
        method=recipe.method,
        args=_arguments(recipe, output, dev=bool(dev_set)),
        train_dataset=train_set,
        eval_dataset=dev_set or None,
        verifier=recipe.verifier,
        peft_config=adapter,
        engine=recipe.engine,
        callbacks=list(callbacks),
        language_weights=recipe.data.shares(),
        curriculum=recipe.data.curriculum,
    )
    trainer.records = False
    return trainer


def _arguments(recipe: Recipe, output: Path, *, dev: bool) -> OPSDConfig:
    settings = _on_dev(recipe.train) if dev else {}
    settings |= recipe.sampling.model_dump() | recipe.train
    settings.setdefault("model_init_kwargs", recipe.model.options)
    with settings_errors():
        return OPSDConfig(output_dir=str(output), **settings)


def _on_dev(train: dict[str, Any]) -> dict[str, Any]:
    """The settings for dev problems: they are scored at the start and before every checkpoint, and
    the best checkpoint is kept."""
    saved, scored = (train.get(f"{what}_strategy", "steps") for what in ("save", "eval"))
    every = train.get("save_steps", OPSDConfig.save_steps)
    steps = train.get("eval_steps", every)
    # The Trainer can keep only the best of checkpoints that were scored.
    matching = saved != "steps" or (bool(steps) and every % steps == 0)
    best = saved == scored != "no" and matching
    on_start = train.get("eval_strategy") != "no"
    return {
        "eval_strategy": "steps",
        "eval_steps": every,
        "eval_on_start": on_start,
        "load_best_model_at_end": best,
    }


def _claim(recipe: Recipe, run: RunFolder, resume: bool) -> None:
    """Ensures that a run neither overwrites anything nor is resumed as a different run."""
    if not resume:
        run.begin()
        return
    if not checkpoint.complete(run.path):
        raise UserError(nothing_to_resume(run))
    written = run.path / "recipe.yaml"
    if written.is_file() and (changed := _changed(recipes.load(str(written)), recipe)):
        raise UserError(
            f"{run.path} was started with a different recipe (see {written}), which differs in"
            f" {', '.join(changed)}: resume with the original recipe, or start a new run in another"
            " --output"
        )


def _changed(before: Recipe, now: Recipe) -> list[str]:
    """The keys in which two recipes differ and on which the training so far depends."""
    one, other = (yaml.safe_load(recipes.dump(recipe)) for recipe in (before, now))
    for content in (one, other):
        del content["published"]
        content["engine"] = {k: v for k, v in content["engine"].items() if k not in _REACHED}
        content["train"] = {k: v for k, v in content["train"].items() if k not in _MAY_CHANGE}
    differ = [key for key in one if key != "train" and one[key] != other[key]]
    keys = dict.fromkeys([*one["train"], *other["train"]])
    return differ + [
        f"train.{key}" for key in keys if one["train"].get(key) != other["train"].get(key)
    ]
