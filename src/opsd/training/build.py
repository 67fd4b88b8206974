"""Builds what a setup describes when training starts: batches, teacher weights, generator,
learner."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from opsd.authors.writing import AtWork
from opsd.data.batches import ProblemLoader, StepSampler, StreamLoader
from opsd.data.curriculum import CurriculumAtWork
from opsd.data.stream import ProblemStream
from opsd.lm.agreement import layout_for, refuse_other_training_pass, starts_as_base
from opsd.lm.diffusion import look_both_ways
from opsd.lm.forward import check_head
from opsd.lm.layout import Layout
from opsd.lm.loading import (
    accept_objectives,
    load_model,
    load_teacher,
    load_tokenizer,
    mend_generation_config,
    padded,
    refuse_named_adapter,
    refuse_other_tokenizer,
    switch_randomness_off,
    with_adapter,
)
from opsd.lm.quantization import keep_differentiable
from opsd.lm.shared_prefix import attends
from opsd.parts import refuse_lacking, tag
from opsd.prompts.prompt import prompt_ids
from opsd.prompts.tokens import special_token_ids
from opsd.rollout.denoise import canvas_of, keep_decoding
from opsd.rollout.engine import PROBE, Engine, EngineChoice, Sampling, at_work, silent
from opsd.rollout.engines import HF
from opsd.rollout.rows import refuse_unfit
from opsd.rollout.sources import Sampler, Verify, Watch
from opsd.teacher.copies import TeacherWeights
from opsd.teacher.scorer import TeacherScorer
from opsd.teacher.weights import External, Start, Weights
from opsd.training.config import OPSDConfig
from opsd.training.generator import Generator, writers
from opsd.training.learner import Learner
from opsd.training.metrics import Metrics
from opsd.training.setup import Setup
from opsd.types import Group, Problem, UserError

_OF_TOKENIZERS = ("revision", "gguf_file", "trust_remote_code")
"""The model's loading options that also apply to its tokenizer."""


def make_student(
    model: str | nn.Module, args: OPSDConfig, tokenizer: Any, peft_config: Any
) -> tuple[Any, Any]:
    """The model to train, wrapped in its adapter if there is one, and its tokenizer."""
    student: Any = model
    options = dict(args.model_init_kwargs or {})
    if isinstance(model, str):
        student = load_model(model, trained=peft_config is None, bf16=bool(args.bf16), **options)
    for_both = {k: options[k] for k in _OF_TOKENIZERS if k in options}
    tokenizer = padded(tokenizer or load_tokenizer(model, **for_both))
    refuse_other_tokenizer(student, tokenizer)
    if peft_config is not None:
        student = with_adapter(student, peft_config, args.seed)
    refuse_named_adapter(student)
    mend_generation_config(student)
    switch_randomness_off(student)
    keep_differentiable(student)
    accept_objectives(student)
    look_both_ways(student)
    return student, tokenizer


def make_loader(
    setup: Setup, curriculum: CurriculumAtWork | None = None
) -> ProblemLoader | StreamLoader:
    """The training set's micro-batches for this process."""
    problems, seed = setup.train_set, setup.data_seed
    if isinstance(problems, ProblemStream):
        return StreamLoader(problems, setup.shape, seed)
    weights = setup.language_weights
    labels = [problem.language for problem in problems or ()] if weights else ()
    sampler = StepSampler(
        len(problems or ()), setup.shape, seed, labels, weights, curriculum=curriculum
    )
    return ProblemLoader(problems or (), sampler)


def make_weights(setup: Setup) -> dict[Weights, TeacherWeights]:
    """The loaded weights, one for each choice that the method names.

    Raises UserError if the exact loss cannot be computed for the model or a teacher.
    """
    model, vocab, tokenizer = setup.model, setup.vocab, setup.tokenizer
    chosen = [weights for _, teacher in setup.teachers for weights in teacher.all_weights]
    chosen += writers(setup.method)
    probe = tokenizer(PROBE)["input_ids"]
    tolerance = 1e-3 if model.dtype == torch.float32 else 0.1
    check_head(model, probe, vocab, tolerance)
    with setup.accelerator.autocast():
        refuse_other_training_pass(model, probe, vocab)

    def load(choice: External) -> nn.Module:
        return load_teacher(
            choice.path, tokenizer, None if choice.dtype == "auto" else choice.dtype
        )

    def first(count: int) -> list[tuple[tuple[int, ...], Problem]]:
        known = setup.train_set
        head = known.head(count) if isinstance(known, ProblemStream) else (known or ())[:count]
        student = setup.method.student
        return [(prompt_ids(tokenizer, student.view(problem)), problem) for problem in head]

    start = Start(model, starts_as_base(model, probe, vocab), load, tokenizer, first)
    for choice in chosen:
        if type(choice).__hash__ is None:
            raise UserError(f"the weights {tag(choice)} are not hashable: make them frozen")
    begun = {choice: choice.begin(start) for choice in dict.fromkeys(chosen)}
    for choice, weights in begun.items():
        refuse_lacking(weights, TeacherWeights, f"what {tag(choice)}.begin returns")
        if weights.remote is not None:  # its server has checked its head
            if choice in writers(setup.method):
                raise UserError(
                    f"the weights {tag(choice)} only score: generate with external weights"
                )
            continue
        with weights.use(model) as reader:
            check_head(reader, probe, vocab, tolerance)
    return begun


def begin_authors(setup: Setup) -> list[AtWork]:
    """The method's authors, ready to write. Raises UserError if one lacks a key or a skill bank."""
    begun = [author.begin() for author in setup.method.authors]
    for author, own in zip(setup.method.authors, begun, strict=True):
        refuse_lacking(own, AtWork, f"what {tag(author)}.begin returns")
    return begun


def make_generator(
    setup: Setup,
    engine: Engine | EngineChoice | None,
    weights: Mapping[Weights, TeacherWeights],
    authors: Sequence[AtWork],
    student: Callable[[], nn.Module],
    verify: Verify,
    observe: Callable[[Sequence[Group]], None] = lambda groups: None,
    heed: Callable[[], None] = lambda: None,
    watch: Watch = lambda phase, rollouts, horizon: silent,
) -> Generator:
    """The generator that turns problems into graded groups, set up by the arguments and the method.
    The model in training generates itself unless another engine is chosen."""
    args, about, source = setup.args, setup.engine_setup, setup.method.source
    canvas = canvas_of(setup.model, args.max_completion_length, about.eos_ids[0])
    refuse_unfit(source.rows, canvas)
    keep_decoding(setup.model, source.decoding)
    sampler = Sampler(
        engine=at_work(HF() if engine is None else engine, about),
        tokenizer=setup.tokenizer,
        student=setup.method.student,
        verify=verify,
        sampling=Sampling(
            args.temperature,
            args.top_p,
            args.top_k,
            args.min_p,
            args.max_completion_length,
            source.decoding,
        ),
        eos_id=about.eos_ids[0],
        limit=about.max_length,
        seed=args.seed,
        too_long=args.prompt_too_long,
        autocast=setup.accelerator.autocast,
        observe=observe,
        heed=heed,
        watch=watch,
        canvas=canvas,
    )
    return Generator(setup.method, student, weights, sampler, authors, args.process_index)


def make_learner(
    setup: Setup, weights: Mapping[Weights, TeacherWeights], metrics: Metrics
) -> Learner:
    """The learner: the method's loss terms, bound to the model and its teachers."""
    return Learner(
        signals=setup.terms,
        scorer=make_scorer(setup, weights),
        vocab=setup.vocab,
        pad_id=setup.tokenizer.pad_token_id,
        temperature=setup.args.temperature,
        chunk_rows=setup.args.loss_chunk_rows,
        layout=_layout(setup, setup.model),
        kernel=setup.args.loss_kernel,
        metrics=metrics,
        special_ids=torch.tensor(sorted(special_token_ids(setup.tokenizer))),
        quiet=not setup.args.should_save,
    )


def make_scorer(setup: Setup, weights: Mapping[Weights, TeacherWeights]) -> TeacherScorer:
    """The scorer, which runs the teachers. It keeps their hidden states only if rollouts are
    reused."""
    layouts, sharing = {}, set()
    for choice, own in weights.items():
        if own.remote is not None:
            continue
        with own.use(setup.model) as reader:
            layouts[choice] = _layout(setup, reader)
            if attends(reader):
                sharing.add(choice)
    again = setup.method.reuse > 1
    return TeacherScorer(
        weights=weights,
        vocab=setup.vocab,
        pad_id=setup.tokenizer.pad_token_id,
        layouts=layouts,
        sharing=frozenset(sharing),
        lasting=frozenset(choice for choice in weights if again and not choice.changes),
        autocast=setup.accelerator.autocast,
    )


def _layout(setup: Setup, model: nn.Module) -> Layout:
    with setup.accelerator.autocast():
        return layout_for(model, setup.args.packing, setup.tokenizer(PROBE)["input_ids"])
