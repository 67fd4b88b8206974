"""Checks before the first step: does the frozen teacher read as the student starts?"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from opsd.rollout.collate import PACKED, PADDED, Ids, Layout, pad_right
from opsd.teacher.keeper import trainable
from opsd.teacher.prefix import attends
from opsd.teacher.score import causal_lm, evaluating, head_of, hidden_rows
from opsd.types import UserError

AGREEMENT = 1e-6
"""Largest difference, in nats, at which two readings of one prompt count as the same."""

LEAK = 0.05
"""Largest difference of packed rows from padded ones, relative to their size, that may be rounding.
Another sequence's tokens make a larger one."""


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
    with evaluating(model):
        student = head_of(model, vocab).logits(hidden_rows(model, padded)).log_softmax(-1)
        with model.disable_adapter():  # type: ignore[operator]
            base = head_of(model, vocab).logits(hidden_rows(model, padded)).log_softmax(-1)
    return bool((student - base).abs().max() <= AGREEMENT)


def layout_for(model: nn.Module, packing: str, ids: Ids) -> Layout:
    """How a model's sequences are laid out. `auto` packs where attention skips what is not a
    sequence's own; elsewhere a mask of all tokens by all tokens costs more than padding.

    Raises UserError where packing is asked for and the model would read across sequences.
    """
    attention = str(causal_lm(model).config._attn_implementation)
    skips = "flash" in attention or attention == "flex_attention"
    if packing == "off" or (packing == "auto" and not skips):
        return PADDED
    if reads_packed(model, ids):
        return PACKED
    if packing == "on":
        raise UserError(
            f"packing: {type(causal_lm(model)).__name__} with {attention} attention reads packed"
            " sequences as one; leave packing out, or set it to 'off'"
        )
    return PADDED


@torch.no_grad()
def reads_packed(model: nn.Module, ids: Ids) -> bool:
    """Whether the model reads each of several packed sequences as it reads it alone."""
    if not attends(model):
        return False
    prompts, completions = [ids[:1], ids[-1:]], [ids[1:], ids[-2::-1]]
    with evaluating(model):
        packed, padded = (
            hidden_rows(model, layout.lay(prompts, completions, 0)).float()
            for layout in (PACKED, PADDED)
        )
    return bool((packed - padded).norm() <= LEAK * padded.norm())
