"""The setup of a training run, before anything is started: checks inspect it, and everything else
is built from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from accelerate import Accelerator
from torch import nn

from opsd.data.batches import StepShape
from opsd.data.curriculum import Curriculum
from opsd.data.stream import ProblemStream
from opsd.grade.judge import Verifier
from opsd.lm.loading import context_length, vocabulary
from opsd.methods.method import Method
from opsd.methods.signals import LossTerm, Teacher
from opsd.prompts.boundary import eos_ids
from opsd.rollout.engine import EngineSetup
from opsd.training.config import OPSDConfig
from opsd.types import Problem


@dataclass(frozen=True)
class Setup:
    """A method on a model, with its arguments and problems. `shape` is one process's part of a
    step. `language_weights` draws problems of some languages more often; a `curriculum` draws those
    that are currently worth training on."""

    method: Method
    args: OPSDConfig
    model: nn.Module
    tokenizer: Any
    accelerator: Accelerator
    verifier: Verifier
    train_set: Sequence[Problem] | ProblemStream | None
    dev_set: Sequence[Problem] | None
    language_weights: dict[str, float]
    curriculum: Curriculum | None = None

    @property
    def terms(self) -> list[tuple[float, LossTerm]]:
        """The method's (coefficient, loss term) pairs."""
        return self.method.signals

    @property
    def teachers(self) -> list[tuple[LossTerm, Teacher]]:
        """The loss terms that have a teacher."""
        return [(term, term.teacher) for _, term in self.terms if term.teacher is not None]

    @property
    def shape(self) -> StepShape:
        """One process's part of an optimizer step. UserError if groups do not divide its
        rollouts."""
        args, passes = self.args, self.args.gradient_accumulation_steps
        assert passes is not None  # the configuration has set it
        return StepShape(
            rollouts=args.per_device_train_batch_size * passes,
            group=self.method.source.group,
            micro_batches=passes,
            reuse=self.method.reuse,
            rank=args.process_index,
            world=args.world_size,
        )

    @property
    def data_seed(self) -> int:
        """The seed of the order of problems."""
        return self.args.seed if self.args.data_seed is None else self.args.data_seed

    @property
    def rollouts_per_step(self) -> int:
        """The rollouts of an optimizer step, over all processes."""
        return self.shape.rollouts * self.shape.world

    @property
    def vocab(self) -> int:
        """One more than the largest id that the tokenizer can produce."""
        return vocabulary(self.tokenizer)

    @property
    def needs_answers(self) -> bool:
        """Whether the verifier compares completions with the problems' answers, which each must
        then have."""
        return getattr(self.verifier, "needs_answer", False)

    @property
    def engine_setup(self) -> EngineSetup:
        """The setup that an engine starts with."""
        return EngineSetup(
            model=self.model,
            tokenizer=self.tokenizer,
            eos_ids=eos_ids(self.model, self.tokenizer),
            vocab=self.vocab,
            max_length=context_length(self.model, self.args.max_length),
            batch_tokens=self.args.generation_batch_tokens,
            bf16=bool(self.args.bf16),
        )
