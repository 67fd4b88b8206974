"""What a trainer refuses before its first step, and what it warns of, so that nothing runs for an
hour in vain."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

from opsd.data.stream import ProblemStream
from opsd.grade.gold import gold_remarks
from opsd.grade.verifier import MathVerifier
from opsd.lm.quantization import is_quantized
from opsd.methods.method import Method
from opsd.methods.signals import Advantage, Distill, LossTerm, Teacher, taught
from opsd.objective.credit import GroupNormalised
from opsd.objective.weighting import ImportanceWeight
from opsd.parts import parts_of
from opsd.prompts.boundary import notes, prompt_notes
from opsd.prompts.prompt import prompt_text
from opsd.rollout.sources import sources
from opsd.runs import checkpoint
from opsd.runs.folder import RunFolder
from opsd.schedule import at
from opsd.teacher.weights import EMA, External, Live, Snapshot
from opsd.training.build import rollouts_per_step, step_shape
from opsd.training.config import without_effect
from opsd.training.generator import writers
from opsd.types import Group, Problem, UserError, Verdict

if TYPE_CHECKING:
    from opsd.training.trainer import OPSDTrainer


def refuse(trainer: OPSDTrainer) -> None:
    """Raises UserError for what cannot go well. Making the loader refuses an empty set as well."""
    refuse_strangers(trainer.args.world_size)
    refuse_sharding(trainer)
    refuse_ungraded(trainer)
    if trainer.train_dataset is not None:
        refuse_small_set(trainer)


def refuse_strangers(world: int) -> None:
    """Processes that a launcher started together must know of each other, or each trains alone,
    and all of them into one folder."""
    started = os.environ.get("WORLD_SIZE", "1")
    if world == 1 and started != "1":
        raise UserError(
            f"the launcher started {started} processes, but this one finds no device to share with"
            " the others: on CPUs, --set train.use_cpu=true"
        )


def refuse_sharding(trainer: OPSDTrainer) -> None:
    """Ways of sharding that would fail later, or differ silently from what is promised."""
    if is_deepspeed_zero3_enabled():
        raise UserError("ZeRO-3 is not supported: FSDP2 splits the same (opsd launcher fsdp2)")
    if trainer.is_deepspeed_enabled and trainer.args.max_tokens_per_pass is not None:
        raise UserError("DeepSpeed takes a step after every pass: leave max_tokens_per_pass out")
    if not trainer.is_fsdp_enabled:
        return
    if is_quantized(trainer.model):
        raise UserError("a quantized model is not sharded: use DDP (opsd launcher ddp)")
    plugin: Any = trainer.accelerator.state.fsdp_plugin
    if plugin.fsdp_version != 2:
        raise UserError("FSDP of the first version is not supported: set fsdp_version to 2")
    needed = {
        "fsdp_state_dict_type": ("FULL_STATE_DICT", plugin.state_dict_type.name),
        "fsdp_cpu_ram_efficient_loading": (False, bool(plugin.cpu_ram_efficient_loading)),
        "fsdp_activation_checkpointing": (False, bool(plugin.activation_checkpointing)),
        "fsdp_offload_params": (False, type(plugin.cpu_offload).__name__ == "CPUOffloadPolicy"),
    }
    for key, (wanted, found) in needed.items():
        if wanted != found:
            raise UserError(f"{key} is {wanted} here, not {found}: see opsd launcher fsdp2")


def refuse_other_step(trainer: OPSDTrainer, folder: Path, step: int) -> None:
    """A run may go on with other processes, but a step must stay what it was."""
    state, shape = checkpoint.load(folder), step_shape(trainer)
    before, now = state.get("rollouts_per_step"), rollouts_per_step(trainer)
    if before not in (None, now):
        raise UserError(
            f"{folder}: a step had {before} rollouts, with {shape.world} process(es) it would have"
            f" {now}: set per_device_train_batch_size or gradient_accumulation_steps so that it has"
            f" {before} again"
        )
    if step % shape.reuse and state.get("processes") not in (None, shape.world):
        raise UserError(
            f"{folder} holds rollouts of {state['processes']} processes that are not spent yet: go"
            " on with as many"
        )


def refuse_small_set(trainer: OPSDTrainer) -> None:
    """A set that is cycled within a step would give two processes the same rollouts."""
    trainer.get_train_dataloader()  # refuses an empty set, and rollouts that groups do not fill
    step = step_shape(trainer).problems_per_step
    streamed = isinstance(trainer.train_dataset, ProblemStream)
    if trainer.args.world_size > 1 and not streamed and len(trainer.train_dataset) < step:
        raise UserError(
            f"{len(trainer.train_dataset)} problems are fewer than the {step} of one step on"
            f" {trainer.args.world_size} processes; lower per_device_train_batch_size"
        )


def refuse_ungraded(trainer: OPSDTrainer) -> None:
    """Rewards and dev scores need answers, unless the user's own verifier does without."""
    if not isinstance(trainer.verifier, MathVerifier):
        return
    method = trainer.method
    train_set = trainer.train_dataset or ()
    if isinstance(train_set, ProblemStream):
        train_set = train_set.head(1)
    lacking = [problem for problem in train_set if not problem.answer]
    if learns_from_rewards(method) and lacking:
        raise UserError(
            f"{method.name} learns from right and wrong answers, but {len(lacking)}"
            f" problems have none (the first: {lacking[0].name}); map a column to 'answer'"
        )
    dev = trainer.eval_dataset or ()
    lacking = [problem for problem in dev if not problem.answer]
    if lacking:
        raise UserError(
            f"dev problems are graded, but {len(lacking)} of {len(dev)} have no answer (the first:"
            f" {lacking[0].name}); map a column to 'answer', or leave such rows out with"
            " data.filters.answered"
        )


def refuse_verdict(problem: Problem, verdict: Any) -> None:
    """What a verifier of the user's own must not say."""
    if verdict is None or (isinstance(verdict, Verdict) and math.isfinite(verdict.reward)):
        return
    said = f"the reward {verdict.reward}" if isinstance(verdict, Verdict) else repr(verdict)[:80]
    raise UserError(
        f"the verifier gave {said} for {problem.name}: it returns a Verdict whose reward is"
        " a finite number, or None for no verdict"
    )


def nothing_to_resume(run: RunFolder) -> str:
    """Why a run cannot be gone on with, and what to do."""
    if not run.begun:
        return f"{run.path} holds no run to go on with: check --output, or leave --resume out"
    return (
        f"{run.path} holds a run without a checkpoint to go on from; its logs stay as they are:"
        " begin anew in another --output, or move this folder away"
    )


@contextlib.contextmanager
def settings_errors() -> Iterator[None]:
    """What Transformers, Accelerate and torch say of a setting, in one line: UserError."""
    try:
        yield
    except (FileNotFoundError, ValueError, TypeError, ImportError, RuntimeError) as error:
        # Trackers and optimizers that are not there; all else of the kind is the machine's.
        if type(error) is RuntimeError and "install" not in str(error):
            raise
        raise UserError(f"train: {' '.join(str(error).split())}") from error


def refuse_ahead(trainer: OPSDTrainer) -> None:
    """Rollouts can only be written meanwhile by an engine with weights of its own, of the student's
    alone, and while each step spends its own."""
    if not trainer.args.async_rollouts:
        return
    if not getattr(trainer.engine, "is_remote", False):
        raise UserError("async_rollouts needs an engine that runs elsewhere: engine: vllm_server")
    if trainer.method.reuse > 1 or writers(trainer.method):
        raise UserError(
            f"async_rollouts: {trainer.method.name} reuses rollouts, or has other weights write"
            " them, which needs them in step; leave it out"
        )


def refuse_untold(groups: Sequence[Group], signals: Sequence[tuple[float, LossTerm]]) -> None:
    """Some losses need the log-probabilities that tokens were sampled with."""
    untold = any(r.logprobs is None for group in groups for r in group.rollouts)
    for _, leaf in signals if untold else ():
        if _counts_on_samples(leaf):
            raise UserError(
                f"'{leaf.type}' reckons with the log-probabilities that tokens were sampled with,"
                " which this engine does not tell under truncation: --set sampling.top_p=1"
                " --set sampling.top_k=0 --set sampling.min_p=0, or another engine"
            )


def compares_rewards(method: Method) -> bool:
    """Whether a signal sets a rollout's reward against those of its group."""
    return any(isinstance(x, GroupNormalised) for x in parts_of(method.signal))


def learns_from_rewards(method: Method) -> bool:
    """Whether right and wrong answers decide what is learned."""
    return any(getattr(x, "needs_reward", False) for x in parts_of(method))


def config_warnings(trainer: OPSDTrainer) -> list[str]:
    """What is allowed but known to go wrong, a line each with its remedy. A setting that a paper
    publishes can be among them."""
    checks = (_settings, _unwatched, _steps, _weights, _sampling, _readings, _golds)
    return [line for check in checks for line in check(trainer)]


def _settings(trainer: OPSDTrainer) -> Iterator[str]:
    """Settings that were given and change nothing."""
    yield from without_effect(trainer.args)


def _unwatched(trainer: OPSDTrainer) -> Iterator[str]:
    watched = trainer.eval_dataset and trainer.args.eval_strategy != "no"
    if trainer.args.collapse != "ignore" and not watched:
        yield (
            "no dev problems are scored, so that a collapse would go unseen: set data.dev (in"
            " Python, eval_dataset and eval_strategy), or say collapse='ignore'"
        )


def _steps(trainer: OPSDTrainer) -> Iterator[str]:
    """What a step's batch means where problems have several rollouts."""
    if not compares_rewards(trainer.method):
        return
    shape = step_shape(trainer)
    if shape.group == 1:
        yield "rewards are compared within groups of 1, which teaches nothing: raise method.group"
    elif shape.problems_per_step < 4:
        yield (
            f"a step's {shape.rollouts * shape.world} rollouts are {shape.problems_per_step}"
            f" problem(s) x {shape.group} (per_device_train_batch_size counts rollouts): raise"
            " gradient_accumulation_steps for a steadier gradient"
        )


def _weights(trainer: OPSDTrainer) -> Iterator[str]:
    """Teachers that run away with the student, or that never move although they should."""
    steps = max(trainer.args.max_steps, trainer.state.max_steps)
    for weights in dict.fromkeys(teacher.weights for _, teacher in _teachers(trainer)):
        if isinstance(weights, Live):
            yield (
                "a live teacher follows the student wherever it goes and is known to be unstable:"
                " try weights frozen, or ema"
            )
        slowest = at(weights.decay, steps - 1, steps) ** steps if isinstance(weights, EMA) else 0
        if steps > 0 and slowest > 0.95:
            yield (
                f"the EMA teacher will hardly move: {slowest:.0%} of it stays the"
                f" starting weights over {steps} steps; lower its decay to about"
                f" {max(0.0, 1 - 3 / steps):.2g}, or say frozen"
            )
        if isinstance(weights, Snapshot) and 0 < steps <= weights.every:
            yield (
                f"the snapshot teacher is renewed every {weights.every} steps, which {steps} steps"
                " never use: lower 'every', or say frozen"
            )


def _sampling(trainer: OPSDTrainer) -> Iterator[str]:
    """Rollouts drawn from another distribution than the loss takes them from."""
    args = trainer.args
    if not sources(trainer.method.source):
        return
    cuts = {"top_p": args.top_p < 1, "top_k": args.top_k > 0, "min_p": args.min_p > 0}
    cut = [name for name, on in cuts.items() if on]
    sampled = [leaf for _, leaf in trainer.signals if _counts_on_samples(leaf)]
    if cut and sampled:
        plain = " ".join(f"--set sampling.{name}={int(name == 'top_p')}" for name in cut)
        yield (
            f"{' and '.join(cut)} cut the distribution that rollouts are drawn from, but"
            f" '{sampled[0].type}' reckons with the whole one, which biases its gradient: {plain}"
        )
    for _, leaf in trainer.signals:
        compared = isinstance(leaf, Distill | Advantage) and leaf.temperature != "sampling"
        if compared and leaf.temperature != args.temperature:
            yield (
                f"rollouts are drawn at temperature {args.temperature:g}, but '{leaf.type}'"
                f" compares at {leaf.temperature:g}: make them equal, or set its temperature to"
                " 'sampling'"
            )


def _readings(trainer: OPSDTrainer) -> Iterator[str]:
    """What the first problem's prompts look like to student and teacher."""
    problem, tokenizer = _first(trainer), trainer.processing_class
    if problem is None:
        return
    student = trainer.method.student.view(problem)
    lines = prompt_notes(tokenizer, student)
    teaches = False
    for leaf, teacher in _teachers(trainer):
        first = bool(taught(leaf, torch.zeros(1, dtype=torch.long)))
        views = teacher.context(Group(problem, ()), 0)
        teaches |= views is None  # what is shown depends on rollouts that are not there yet
        for view in views or ():
            # The student's own prompt is no trap beside another signal: it keeps a model in place.
            other = prompt_text(tokenizer, view) != prompt_text(tokenizer, student)
            teaches |= other or isinstance(teacher.weights, External)
            lines += notes(tokenizer, student, view, first_taught=first) if other else []
    if not teaches and all(leaf.teacher for _, leaf in trainer.signals):
        yield (
            "the teacher reads what the student reads, with the student's own weights: there is"
            " nothing to learn from it; set another method.signal.teacher.context"
        )
    yield from dict.fromkeys(lines)


def _golds(trainer: OPSDTrainer) -> Iterator[str]:
    """Gold answers that no rollout can match. A stream's are not read ahead for it."""
    if not isinstance(trainer.verifier, MathVerifier):
        return
    for problems in (trainer.train_dataset or (), trainer.eval_dataset or ()):
        if not isinstance(problems, ProblemStream):
            for remark, count in gold_remarks(problems):
                yield f"{count:,} of {len(problems):,} {remark}"


def _teachers(trainer: OPSDTrainer) -> list[tuple[LossTerm, Teacher]]:
    return [(leaf, leaf.teacher) for _, leaf in trainer.signals if leaf.teacher is not None]


def _counts_on_samples(leaf: LossTerm) -> bool:
    """Whether a loss weighs a token by its own probability of being drawn."""
    return isinstance(leaf, Advantage) or any(
        isinstance(weighting, ImportanceWeight) for weighting in leaf.weighting
    )


def _first(trainer: OPSDTrainer) -> Problem | None:
    problems = trainer.train_dataset
    found = problems.head(1) if isinstance(problems, ProblemStream) else problems
    return found[0] if found else None
