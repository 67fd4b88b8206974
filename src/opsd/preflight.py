"""What a trainer refuses before its first step, so that nothing runs for an hour in vain."""

from __future__ import annotations

from typing import TYPE_CHECKING

from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

from opsd.assembly import step_shape
from opsd.data.stream import ProblemStream
from opsd.grade.verifier import MathVerifier
from opsd.objective.credit import GroupNormalised
from opsd.rollout.source import KeepCorrect
from opsd.types import UserError

if TYPE_CHECKING:
    from opsd.trainer import OPSDTrainer


def refuse_sharding(trainer: OPSDTrainer) -> None:
    """Rollouts and traces read the unwrapped model, which a sharded one cannot give."""
    if trainer.is_fsdp_enabled or is_deepspeed_zero3_enabled():
        raise UserError("sharded models (FSDP, ZeRO-3) are not supported yet; use DDP or ZeRO-2")
    if trainer.is_deepspeed_enabled and trainer.args.max_tokens_per_pass is not None:
        raise UserError("DeepSpeed takes a step after every pass: leave max_tokens_per_pass out")


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
    graded = isinstance(method.source, KeepCorrect) or any(
        isinstance(getattr(leaf, "credit", None), GroupNormalised) for _, leaf in trainer.signals
    )
    train_set = trainer.train_dataset or ()
    if isinstance(train_set, ProblemStream):
        train_set = train_set.head(1)
    lacking = [problem for problem in train_set if not problem.answer]
    if graded and lacking:
        raise UserError(
            f"{method.name} learns from right and wrong answers, but {len(lacking)}"
            f" problems have none (the first: {lacking[0].id}); map a column to 'answer'"
        )
    if any(not problem.answer for problem in trainer.eval_dataset or ()):
        raise UserError("dev problems are graded, but some have no answer; map a column to it")
