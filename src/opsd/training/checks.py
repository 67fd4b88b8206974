"""Checks before a trainer's first step: errors and warnings that keep a run from wasting an
hour."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

from opsd.data.stream import ProblemStream
from opsd.grade.gold import gold_remarks
from opsd.lm.forward import is_mixture_of_experts
from opsd.lm.quantization import is_quantized
from opsd.methods.method import Method
from opsd.methods.signals import LossTerm
from opsd.objective.credit import compares_rewards
from opsd.parts import parts_of, tag
from opsd.prompts.boundary import notes, prompt_notes
from opsd.prompts.contexts import Draw
from opsd.prompts.prompt import INSTRUCTED, LacksText, prompt_text
from opsd.runs import checkpoint
from opsd.runs.folder import RunFolder
from opsd.training.build import make_loader
from opsd.training.config import without_effect
from opsd.training.generator import Generator, writers
from opsd.training.setup import Setup
from opsd.types import COLUMNS, Group, Problem, UserError

_HEAD = 100
"""The number of problems at a stream's beginning that are checked."""


def refuse(setup: Setup) -> None:
    """Raises UserError for settings that cannot work. Building the loader also refuses an empty
    set."""
    refuse_separate_processes(setup.args.world_size)
    refuse_sharding(setup)
    refuse_missing_answers(setup)
    refuse_curriculum(setup)
    if setup.train_set is not None:
        refuse_small_set(setup)
        refuse_lacking_texts(setup)


def refuse_separate_processes(world: int) -> None:
    """Processes that a launcher started together must be connected, or each would train alone and
    all would write to the same folder."""
    started = os.environ.get("WORLD_SIZE", "1")
    if world == 1 and started != "1":
        raise UserError(
            f"the launcher started {started} processes, but this one finds no device that connects"
            " it to the others: on CPUs, --set train.use_cpu=true"
        )


def refuse_sharding(setup: Setup) -> None:
    """Refuses sharding setups that would fail later, or would silently compute something else."""
    if is_deepspeed_zero3_enabled():
        raise UserError("ZeRO-3 is not supported: FSDP2 shards the same (opsd launcher fsdp2)")
    state: Any = setup.accelerator.state
    deepspeed = getattr(state, "deepspeed_plugin", None) is not None
    if deepspeed and setup.args.max_tokens_per_pass is not None:
        raise UserError("DeepSpeed takes a step after every pass: leave max_tokens_per_pass out")
    plugin: Any = getattr(state, "fsdp_plugin", None)
    if plugin is None:
        return
    if is_quantized(setup.model):
        raise UserError("a quantized model cannot be sharded: use DDP (opsd launcher ddp)")
    if plugin.fsdp_version != 2:
        raise UserError("FSDP version 1 is not supported: set fsdp_version to 2")
    needed = {
        "fsdp_state_dict_type": ("FULL_STATE_DICT", plugin.state_dict_type.name),
        "fsdp_cpu_ram_efficient_loading": (False, bool(plugin.cpu_ram_efficient_loading)),
        "fsdp_activation_checkpointing": (False, bool(plugin.activation_checkpointing)),
        "fsdp_offload_params": (False, type(plugin.cpu_offload).__name__ == "CPUOffloadPolicy"),
    }
    for key, (wanted, found) in needed.items():
        if wanted != found:
            raise UserError(f"{key} must be {wanted}, not {found}: see opsd launcher fsdp2")


def refuse_other_step(setup: Setup, folder: Path, step: int) -> None:
    """A run may be resumed on another number of processes, but the rollouts per step must not
    change."""
    state, shape = checkpoint.load_state(folder), setup.shape
    before, now = state.get("rollouts_per_step"), setup.rollouts_per_step
    if before not in (None, now):
        raise UserError(
            f"{folder}: a step had {before} rollouts, but with {shape.world} process(es) it would"
            f" have {now}: set rollouts_per_step to {before}, and, if it is given,"
            " gradient_accumulation_steps to null"
        )
    if step % shape.reuse and state.get("processes") not in (None, shape.world):
        raise UserError(
            f"{folder} contains unused rollouts of {state['processes']} processes: resume with as"
            " many processes"
        )


def refuse_small_set(setup: Setup) -> None:
    """A set that is cycled within a step would give two processes the same rollouts."""
    make_loader(setup)  # refuses an empty set, and a number of rollouts that groups do not divide
    step, problems = setup.shape.problems_per_step, setup.train_set
    alone = setup.args.world_size == 1 or isinstance(problems, ProblemStream)
    if not alone and len(problems or ()) < step:
        raise UserError(
            f"{len(problems or ())} problems are fewer than the {step} that one step needs on"
            f" {setup.args.world_size} processes; lower rollouts_per_step"
        )


def refuse_curriculum(setup: Setup) -> None:
    """A curriculum chooses among all problems by the outcomes of all their rollouts."""
    source = setup.method.source
    if setup.curriculum is None:
        return
    if isinstance(setup.train_set, ProblemStream):
        raise UserError("a curriculum chooses among all problems: leave data.streaming out")
    if setup.language_weights:
        raise UserError("a curriculum draws problems its own way: leave data.weights out")
    if source.needs_reward or not source.phases:
        raise UserError(
            f"a curriculum needs the outcome of every rollout, and the source '{tag(source)}' of"
            f" {setup.method.name} does not show it: leave the curriculum out"
        )


def refuse_missing_answers(setup: Setup) -> None:
    """Rewards and dev scores need answers, unless a custom verifier works without them."""
    if not setup.needs_answers:
        return
    method = setup.method
    train_set = setup.train_set or ()
    if isinstance(train_set, ProblemStream):
        train_set = train_set.head(1)
    lacking = [problem for problem in train_set if not problem.answer]
    graded = learns_from_rewards(method) or setup.curriculum is not None
    if graded and lacking:
        who = method.name if learns_from_rewards(method) else "the curriculum"
        raise UserError(
            f"{who} learns from right and wrong answers, but {len(lacking)}"
            f" problems have no answer (the first: {lacking[0].name}); map a column to 'answer'"
        )
    dev = setup.dev_set or ()
    lacking = [problem for problem in dev if not problem.answer]
    if lacking:
        raise UserError(
            f"dev problems are graded, but {len(lacking)} of {len(dev)} have no answer (the first:"
            f" {lacking[0].name}); map a column to 'answer', or leave such rows out with"
            " data.filters.answered"
        )


def refuse_lacking_texts(setup: Setup) -> None:
    """Refuses problems without a text that a prompt needs. Problems with the same kinds of texts
    are checked together: every prompt is rendered once per kind. Contexts that show rollouts are
    not checked, as there are no rollouts yet."""
    known = setup.train_set or ()
    problems = known.head(_HEAD) if isinstance(known, ProblemStream) else known
    kinds: dict[Any, list[int]] = {}
    for number, problem in enumerate(problems):
        kinds.setdefault(_kind(problem), []).append(number)
    lacking: dict[tuple[str, str], list[int]] = {}
    for alike in kinds.values():
        try:
            _write_prompts(setup, problems[alike[0]])
        except LacksText as error:
            lacking.setdefault((error.text, error.shows), []).extend(alike)
    for (text, shows), without in lacking.items():
        column = text if any(text in p.metadata.get(COLUMNS, ()) for p in problems) else "COLUMN"
        mapped = f"--set data.columns.{text}={column}"
        mend = f"leave them out with {mapped} --set data.filters.complete=true, or fill the column"
        if len(without) == len(problems):
            mend = f"say which column it is with {mapped}"
        raise UserError(
            f"{problems[min(without)].name}: no '{text}', which {shows}; {len(without):,} of"
            f" {len(problems):,} problems lack it: {mend}"
        )


def _kind(problem: Problem) -> Any:
    """The properties that decide whether a problem's prompts can be rendered."""
    conversation = not isinstance(problem.prompt, str)
    roles = tuple(turn["role"] for turn in problem.prompt) if conversation else ()
    own = (problem.language, problem.answer is None, INSTRUCTED in problem.metadata)
    return frozenset(problem.privileged), own, roles


def _write_prompts(setup: Setup, problem: Problem) -> None:
    """Renders every prompt of a problem that does not need rollouts. Raises LacksText, which names
    the prompt and the missing text, and UserError for anything else that prevents it."""
    source, student, alone = setup.method.source, setup.method.student, Group(problem, ())
    if source.written and source.written not in problem.privileged:
        raise LacksText(problem, source.written, "is to be learned")
    readers = [("student", student)]
    readers += [("sampler", phase.view) for phase in source.phases if phase.view is not None]
    readers += [("teacher", teacher.context) for _, teacher in setup.teachers]
    for reader, context in readers:
        try:
            for view in context(alone, 0, Draw()) or ():
                prompt_text(setup.tokenizer, view)
        except LacksText as error:
            shows = error.shows.removeprefix("the ").replace("prompt template", "prompt")
            raise LacksText(problem, error.text, f"the {reader}'s {shows}") from error


def nothing_to_resume(run: RunFolder) -> str:
    """Why a run cannot be resumed, and what to do."""
    if not run.begun:
        return f"{run.path} contains no run to resume: check --output, or leave --resume out"
    return (
        f"{run.path} contains a run without a checkpoint to resume from; its logs are kept: start"
        " over in another --output, or move this folder away"
    )


@contextlib.contextmanager
def settings_errors() -> Iterator[None]:
    """Turn errors of Transformers, Accelerate and torch about a setting into a one-line
    UserError."""
    try:
        yield
    except (FileNotFoundError, ValueError, TypeError, ImportError, RuntimeError) as error:
        # Trackers and optimizers that are not installed; other RuntimeErrors are not about
        # settings.
        if type(error) is RuntimeError and "install" not in str(error):
            raise
        raise UserError(f"train: {' '.join(str(error).split())}") from error


def refuse_async(setup: Setup, generator: Generator) -> None:
    """Rollouts can be generated in advance only by an engine that has its own copy of the weights,
    with the student's weights, and if every step uses its own rollouts. More than one step in
    advance also needs an engine that keeps older weights while newer ones arrive, and a method
    without authors."""
    if not setup.args.async_rollouts:
        return
    if not generator.engine.is_remote:
        raise UserError("async_rollouts needs an engine that runs elsewhere: engine: vllm_server")
    if setup.method.reuse > 1 or writers(setup.method):
        raise UserError(
            f"async_rollouts: {setup.method.name} reuses rollouts, or generates them with other"
            " weights, so they cannot be generated in advance; leave it out"
        )
    if setup.args.max_staleness == 1:
        return
    if not generator.engine.pins_weights:
        raise UserError(
            "async_rollouts: a max_staleness above 1 needs an engine that keeps older weights while"
            " newer ones arrive, as with adapters: engine: vllm_server and model.lora, or"
            " async_rollouts: true"
        )
    if generator.authors:
        raise UserError(
            f"async_rollouts: a max_staleness above 1 is not for {setup.method.name}, whose authors"
            " write one step after another; use async_rollouts: true"
        )


def refuse_missing_logprobs(setup: Setup, generator: Generator) -> None:
    """Refuses losses that need sampling log-probabilities if the engine does not return them."""
    sampler = generator.sampler
    if setup.method.source.phases and not generator.engine.returns_logprobs(sampler.sampling):
        _refuse_logprobs(setup.terms, _TRUNCATED)


def refuse_other_routes(setup: Setup, generator: Generator) -> None:
    """Refuses losses that need sampling log-probabilities if another implementation of a mixture of
    experts samples: a token that is nearly as close to two experts may be routed to the other one,
    so that implementation's probabilities say little about the training pass."""
    if generator.engine.shares_model or not is_mixture_of_experts(setup.model):
        return
    _refuse_logprobs(
        setup.terms,
        "a mixture of experts may route tokens differently in this engine than in training (there"
        " is no router replay): leave engine out, so that the model itself generates",
    )


def refuse_unjudged(groups: Sequence[Group], method: Method) -> None:
    """Refuses rollouts without a verdict or without sampling log-probabilities if the method needs
    them."""
    rollouts = [(group.problem, r) for group in groups for r in group.rollouts]
    unjudged = [problem for problem, r in rollouts if r.verdict is None]
    if unjudged and learns_from_rewards(method):
        raise UserError(
            f"{method.name} reads rewards, but the verifier gave no verdict on {len(unjudged)} of"
            f" {len(rollouts)} rollouts (the first: {unjudged[0].name})"
        )
    if any(r.logprobs is None for _, r in rollouts):
        _refuse_logprobs(method.signals, _TRUNCATED)


_TRUNCATED = (
    "this engine returns none under truncation: --set sampling.top_p=1 --set sampling.top_k=0 --set"
    " sampling.min_p=0, or another engine"
)


def _refuse_logprobs(terms: Sequence[tuple[float, LossTerm]], why: str) -> None:
    for _, term in terms:
        if term.needs_sampling_logprobs:
            raise UserError(f"'{tag(term)}' needs the sampling log-probs, and {why}")


def learns_from_rewards(method: Method) -> bool:
    """Whether the method learns from rewards, that is, from correct and wrong answers."""
    return any(x.needs_reward for x in parts_of(method) if hasattr(x, "needs_reward"))


def config_warnings(setup: Setup, steps: int) -> list[str]:
    """Warnings about settings that are allowed but known to go wrong, one line each with the
    remedy. Some of them are settings that a paper publishes."""
    checks = (_settings, _unwatched, _steps, partial(_weights, steps=steps), _sampling)
    return [line for check in (*checks, _prompts, _golds) for line in check(setup)]


def _settings(setup: Setup) -> Iterator[str]:
    """Settings that were given but have no effect."""
    yield from without_effect(setup.args)


def _unwatched(setup: Setup) -> Iterator[str]:
    watched = setup.dev_set and setup.args.eval_strategy != "no"
    if setup.args.collapse != "ignore" and not watched:
        yield (
            "no dev problems are scored, so a collapse would go unnoticed: set data.dev (in"
            " Python, eval_dataset and eval_strategy), or collapse='ignore'"
        )


def _steps(setup: Setup) -> Iterator[str]:
    """Whether a step contains enough rollouts per problem, and enough problems, to compare
    rewards."""
    if not compares_rewards(setup.method.signal):
        return
    shape = setup.shape
    if shape.group == 1:
        yield "rewards are compared within groups of 1, which teaches nothing: raise method.group"
    elif shape.problems_per_step < 4:
        yield (
            f"a step's {shape.rollouts * shape.world} rollouts are {shape.problems_per_step}"
            f" problem(s) x {shape.group}: raise rollouts_per_step for a steadier gradient"
        )


def _weights(setup: Setup, steps: int) -> Iterator[str]:
    """Teachers that drift away with the student, or that never move although they should."""
    chosen = dict.fromkeys(w for _, teacher in setup.teachers for w in teacher.all_weights)
    for weights in chosen:
        yield from weights.warnings(steps)


def _sampling(setup: Setup) -> Iterator[str]:
    """Rollouts sampled from another distribution than the loss assumes."""
    args = setup.args
    if not setup.method.source.phases:
        return
    cuts = {"top_p": args.top_p < 1, "top_k": args.top_k > 0, "min_p": args.min_p > 0}
    cut = [name for name, on in cuts.items() if on]
    sampled = [term for _, term in setup.terms if term.corrects_sampling]
    if cut and sampled:
        plain = " ".join(f"--set sampling.{name}={int(name == 'top_p')}" for name in cut)
        yield (
            f"{' and '.join(cut)} cut the distribution that rollouts are drawn from, but"
            f" '{tag(sampled[0])}' assumes the whole one, which biases its gradient: {plain}"
        )
    for _, term in setup.terms:
        compared = term.teacher is not None or term.corrects_sampling
        if compared and term.temperature not in ("sampling", args.temperature):
            yield (
                f"rollouts are drawn at temperature {args.temperature:g}, but '{tag(term)}'"
                f" compares at {term.temperature:g}: make them equal, or set its temperature to"
                " 'sampling'"
            )


def _prompts(setup: Setup) -> Iterator[str]:
    """Notes on the student's and the teachers' prompts for the first problem."""
    problem, tokenizer = _first(setup), setup.tokenizer
    if problem is None:
        return
    student = setup.method.student.view(problem)
    lines = prompt_notes(tokenizer, student)
    teaches = False
    for term, teacher in setup.teachers:
        first = bool(term.taught(torch.zeros(1, dtype=torch.long)))
        views = teacher.context(Group(problem, ()), 0, Draw())
        teaches |= views is None  # what is shown depends on rollouts that do not exist yet
        foreign = not all(weights.is_student for weights in teacher.all_weights)
        for view in views or ():
            # Next to another signal, the student's own prompt is legitimate: it keeps the model in
            # place.
            other = prompt_text(tokenizer, view) != prompt_text(tokenizer, student)
            teaches |= other or foreign or view.reveals is not None
            lines += notes(tokenizer, student, view, first_taught=first) if other else []
    if not teaches and all(term.teacher for _, term in setup.terms):
        yield (
            "the teacher reads the student's prompt with the student's own weights: there is"
            " nothing to learn from it; set another method.signal.teacher.context"
        )
    yield from dict.fromkeys(lines)


def _golds(setup: Setup) -> Iterator[str]:
    """Gold answers that no rollout can match. Streams are not read ahead for this check."""
    if not getattr(setup.verifier, "reads_boxes", False):
        return
    for problems in (setup.train_set or (), setup.dev_set or ()):
        if not isinstance(problems, ProblemStream):
            for remark, count in gold_remarks(problems):
                yield f"{count:,} of {len(problems):,} {remark}"


def _first(setup: Setup) -> Problem | None:
    problems = setup.train_set
    found = problems.head(1) if isinstance(problems, ProblemStream) else problems
    return found[0] if found else None
