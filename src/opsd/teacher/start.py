"""Checks before the first step: does the frozen teacher read as the student starts?"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from opsd.rollout.collate import Ids, pad_right
from opsd.teacher.keeper import trainable
from opsd.teacher.score import head_of, hidden_rows
from opsd.types import UserError

AGREEMENT = 1e-6
"""Largest difference, in nats, at which two readings of one prompt count as the same."""


def refuse_prompt_learning(config: Any) -> None:
    """Refuses a PEFT configuration of an adapter that acts on the prompt."""
    if config.is_prompt_learning:
        raise UserError(
            "a frozen teacher is impossible with prompt-learning adapters (prefix, prompt or"
            " p-tuning): use LoRA, or full fine-tuning"
        )


@torch.no_grad()
def starts_as_base(model: nn.Module, ids: Ids, vocab: int) -> bool:
    """Whether switching the adapter off changes nothing yet, so that it can play the frozen
    teacher. False for a model without an adapter, and for one whose adapter starts elsewhere
    (PiSSA, OLoRA, one that was trained before) or that trains more than the adapter (biases):
    those need a copy.

    Raises UserError for adapters that act on the prompt: no weights of theirs can be set aside.
    """
    if not hasattr(model, "disable_adapter"):
        return False
    for config in model.peft_config.values():  # type: ignore[union-attr]
        refuse_prompt_learning(config)
    prefix: Any = model.base_model.prefix  # type: ignore[union-attr]
    own = (prefix, "modules_to_save.")
    if not all(any(part in name for part in own) for name in trainable(model)):
        return False
    padded = pad_right([ids[:1]], [ids[1:]], 0)
    was_training = model.training
    model.eval()
    try:
        student = head_of(model, vocab).logits(hidden_rows(model, padded)).log_softmax(-1)
        with model.disable_adapter():  # type: ignore[operator]
            base = head_of(model, vocab).logits(hidden_rows(model, padded)).log_softmax(-1)
    finally:
        model.train(was_training)
    return bool((student - base).abs().max() <= AGREEMENT)
