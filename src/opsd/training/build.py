"""What a trainer is put together from at its start: batches, teachers' weights, the sampler."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from opsd.data.batches import ProblemLoader, StepSampler, StepShape, StreamLoader
from opsd.data.stream import ProblemStream
from opsd.lm.agreement import layout_for, refuse_other_training_pass, starts_as_base
from opsd.lm.forward import check_head
from opsd.lm.layout import Layout
from opsd.lm.loading import (
    accept_objectives,
    context_length,
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
from opsd.prompts.boundary import eos_ids
from opsd.prompts.tokens import markup_ids
from opsd.rollout.engine import PROBE, Engine, Sampling
from opsd.rollout.engines import VLLM, VLLMServer
from opsd.rollout.hf import HFEngine
from opsd.rollout.sources import Sampler
from opsd.teacher.copies import TeacherWeights, keep
from opsd.teacher.scorer import TeacherScorer
from opsd.teacher.weights import AnyWeights, External, still
from opsd.training.config import OPSDConfig
from opsd.training.generator import borrowed, writers
from opsd.training.learner import Learner

if TYPE_CHECKING:
    from opsd.training.trainer import OPSDTrainer


def make_student(
    model: str | nn.Module, args: OPSDConfig, tokenizer: Any, peft_config: Any
) -> tuple[Any, Any]:
    """The model in training, under its adapter if there is one, and its tokenizer."""
    student: Any = model
    options = dict(args.model_init_kwargs or {})
    if isinstance(model, str):
        student = load_model(model, trained=peft_config is None, bf16=bool(args.bf16), **options)
    for_both = {k: options[k] for k in ("revision", "trust_remote_code") if k in options}
    tokenizer = padded(tokenizer or load_tokenizer(model, **for_both))
    refuse_other_tokenizer(student, tokenizer)
    if peft_config is not None:
        student = with_adapter(student, peft_config, args.seed)
    refuse_named_adapter(student)
    mend_generation_config(student)
    switch_randomness_off(student)
    keep_differentiable(student)
    accept_objectives(student)
    return student, tokenizer


def step_shape(trainer: OPSDTrainer) -> StepShape:
    """One process's part of an optimizer step. UserError where groups do not fill it."""
    args = trainer.args
    return StepShape(
        rollouts=args.per_device_train_batch_size * args.gradient_accumulation_steps,
        group=trainer.method.source.group,
        micro_batches=args.gradient_accumulation_steps,
        reuse=trainer.method.reuse,
        rank=args.process_index,
        world=args.world_size,
    )


def rollouts_per_step(trainer: OPSDTrainer) -> int:
    """Of all processes together."""
    shape = step_shape(trainer)
    return shape.rollouts * shape.world


def make_loader(trainer: OPSDTrainer) -> ProblemLoader | StreamLoader:
    """The training set's micro-batches for this process."""
    args, problems = trainer.args, trainer.train_dataset
    seed = args.seed if args.data_seed is None else args.data_seed
    if isinstance(problems, ProblemStream):
        return StreamLoader(problems, step_shape(trainer), seed)
    weights = trainer.language_weights
    labels = [problem.language for problem in problems] if weights else ()
    sampler = StepSampler(len(problems or ()), step_shape(trainer), seed, labels, weights)
    return ProblemLoader(problems, sampler)


def make_keepers(trainer: OPSDTrainer) -> dict[AnyWeights, TeacherWeights]:
    """One keeper per choice of weights that the method names.

    Raises UserError where the exact loss cannot be computed for the model, or for a teacher.
    """
    model, vocab = trainer.model, trainer.vocab
    chosen = [leaf.teacher.weights for _, leaf in trainer.signals if leaf.teacher is not None]
    chosen += writers(trainer.method)
    probe = trainer.processing_class(PROBE)["input_ids"]
    tolerance = 1e-3 if model.dtype == torch.float32 else 0.1
    check_head(model, probe, vocab, tolerance)
    with trainer.accelerator.autocast():
        refuse_other_training_pass(model, probe, vocab)
    as_base = starts_as_base(model, probe, vocab)
    tokenizer = trainer.processing_class

    def load(choice: External) -> nn.Module:
        return load_teacher(
            choice.path, tokenizer, None if choice.dtype == "auto" else choice.dtype
        )

    keepers = {w: keep(w, model, starts_as_base=as_base, load=load) for w in dict.fromkeys(chosen)}
    for keeper in keepers.values():
        with keeper.use(model) as reader:
            check_head(reader, probe, vocab, tolerance)
    return keepers


def make_engine(trainer: OPSDTrainer, choice: Engine | VLLM | VLLMServer | None) -> Engine:
    """The engine that a value stands for: the model in training itself, unless vLLM is chosen."""
    tokenizer: Any = trainer.processing_class
    known: dict[str, Any] = {
        "eos_ids": eos_ids(trainer.model, tokenizer),
        "vocab": trainer.vocab,
    }
    if choice is None:
        tokens = trainer.args.generation_batch_tokens
        return HFEngine(trainer.model, pad_id=tokenizer.pad_token_id, batch_tokens=tokens, **known)
    known["probe"] = tokenizer(PROBE)["input_ids"]
    if isinstance(choice, VLLM):
        from opsd.rollout.vllm import VLLMEngine

        longest = context_length(trainer.model, trainer.args.max_length)
        bf16 = bool(trainer.args.bf16)
        return VLLMEngine(trainer.model, choice, max_model_len=longest, bf16=bf16, **known)
    if isinstance(choice, VLLMServer):
        from opsd.rollout.vllm_server import VLLMServerEngine

        return VLLMServerEngine(trainer.model, choice, **known)
    return choice


def make_sampler(trainer: OPSDTrainer) -> Sampler:
    """Problems to graded groups, as the arguments and the method say."""
    args, tokenizer = trainer.args, trainer.processing_class
    return Sampler(
        engine=trainer.engine,
        tokenizer=tokenizer,
        student=trainer.method.student,
        verify=trainer.verdicts,
        sampling=Sampling(
            args.temperature, args.top_p, args.top_k, args.min_p, args.max_completion_length
        ),
        borrow=lambda weights: borrowed(trainer, weights),
        eos_id=eos_ids(trainer.model, tokenizer)[0],
        limit=context_length(trainer.model, args.max_length),
        seed=args.seed,
        too_long=args.prompt_too_long,
        autocast=lambda: trainer.accelerator.autocast(),
        observe=trainer.metrics.rollouts,
        heed=trainer.stop.heed,
    )


def make_learner(trainer: OPSDTrainer) -> Learner:
    """The method's signals, bound to the model and to its teachers."""
    return Learner(
        signals=trainer.signals,
        readers=make_scorer(trainer),
        vocab=trainer.vocab,
        pad_id=trainer.processing_class.pad_token_id,
        temperature=trainer.args.temperature,
        chunk_rows=trainer.args.loss_chunk_rows,
        layout=_layout(trainer, trainer.model),
        kernel=trainer.args.loss_kernel,
        metrics=trainer.metrics,
        markup=torch.tensor(sorted(markup_ids(trainer.processing_class))),
        told=not trainer.args.should_save,
    )


def make_scorer(trainer: OPSDTrainer) -> TeacherScorer:
    """The teachers. Where rollouts are learned from once, no rows of theirs are kept."""
    layouts, forking = {}, set()
    for weights, keeper in trainer.keepers.items():
        with keeper.use(trainer.model) as reader:
            layouts[weights] = _layout(trainer, reader)
            if attends(reader):
                forking.add(weights)
    again = trainer.method.reuse > 1
    return TeacherScorer(
        keepers=trainer.keepers,
        vocab=trainer.vocab,
        pad_id=trainer.processing_class.pad_token_id,
        layouts=layouts,
        forking=frozenset(forking),
        lasting=frozenset(weights for weights in trainer.keepers if again and still(weights)),
        autocast=lambda: trainer.accelerator.autocast(),
    )


def _layout(trainer: OPSDTrainer, model: nn.Module) -> Layout:
    with trainer.accelerator.autocast():
        return layout_for(model, trainer.args.packing, trainer.processing_class(PROBE)["input_ids"])
