"""Checks before the first step: does the frozen teacher read as the student starts?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from opsd.lm.diffusion import masked_diffusion
from opsd.lm.forward import causal_lm, evaluating, head_of, hidden_rows, in_mode
from opsd.lm.layout import MASKED, PACKED, PADDED, Ids, Layout, PackedBatch, continued, pad_right
from opsd.lm.parameters import trainable
from opsd.lm.shared_prefix import attends
from opsd.objective.divergences import forward_kl
from opsd.types import UserError

AGREEMENT = 1e-6
"""Largest difference, in nats, at which two readings of one prompt count as the same."""

LOW_PRECISION = 1e-2
"""The same below float32, where kernels of the two modes may round differently."""

NOISE = 1e-4
"""The same there from one time to the next, since not every kernel repeats itself bit for bit."""

_REPEATS = 8

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
    padded = pad_right([continued(ids[:1], ids[1:])], 0)
    with evaluating(model):
        student = _logp(model, padded, vocab)
        with model.disable_adapter():  # type: ignore[operator]
            base = _logp(model, padded, vocab)
    return bool((student - base).abs().max() <= AGREEMENT)


@torch.no_grad()
def refuse_other_training_pass(model: nn.Module, ids: Ids, vocab: int) -> None:
    """Raises UserError where the model, in training mode, reads the same text differently from one
    time to the next, or differently from evaluation mode, in which teachers read: noise, dropout,
    layers left out, anything that only training has. Then no divergence would mean what it says.

    Differences are divergences, in nats per token, of a text's next-token distributions.
    """
    batch = pad_right([continued(ids[:1], ids[1:])], 0)

    def read(training: bool) -> Tensor:
        with in_mode(model, training):
            return _logp(model, batch, vocab)

    first = next(model.parameters())
    once, *others = (read(False) for _ in range(_REPEATS))
    trained, *repeated = (read(True) for _ in range(_REPEATS))
    floor = max(_apart(once, again) for again in others)
    noise = max(_apart(trained, again) for again in repeated)
    gap = _apart(once, trained)
    exact = first.dtype == torch.float32 and not torch.is_autocast_enabled(first.device.type)
    most_noise, widest_gap = (AGREEMENT, AGREEMENT) if exact else (NOISE, LOW_PRECISION)
    if noise <= max(most_noise, 10 * floor) and gap <= max(widest_gap, 10 * floor):
        return
    kind = type(causal_lm(model)).__name__
    found = f"; it begins in {culprit}" if (culprit := _first_other(model, batch)) else ""
    raise UserError(
        f"{kind} reads one text differently in training mode (by {max(noise, gap):.2g} nats a"
        f" token){found}: student and teacher could never agree. Set what makes it random to 0 in"
        " the model's config.json"
    )


def _logp(model: nn.Module, batch: PackedBatch, vocab: int) -> Tensor:
    """Log-probabilities `[N, V]` of the next tokens, as the model reads at present."""
    return head_of(model, vocab).logits(hidden_rows(model, batch)).log_softmax(-1)


def _apart(one: Tensor, other: Tensor) -> float:
    """The largest divergence of two rows of log-probabilities, in nats."""
    return float(forward_kl(one.double(), other.double()).abs().max())


def _first_other(model: nn.Module, batch: PackedBatch) -> str | None:
    """The first module, from the inside out, whose output in training mode differs from that in
    evaluation mode."""
    outputs: list[dict[str, Tensor]] = [{}, {}]
    for seen, training in zip(outputs, (False, True), strict=True):
        hooks = [
            module.register_forward_hook(_keeping(seen, name))
            for name, module in model.named_modules()
            if name
        ]
        try:
            with in_mode(model, training):
                hidden_rows(model, batch)
        finally:
            for hook in hooks:
                hook.remove()
    for name, output in outputs[0].items():
        other = outputs[1].get(name)
        if other is None or other.shape != output.shape or not torch.allclose(output, other):
            return f"'{name}' ({type(model.get_submodule(name)).__name__})"
    return None


def _keeping(seen: dict[str, Tensor], name: str) -> Callable[..., None]:
    def keep(module: nn.Module, given: Any, output: Any) -> None:
        first = output[0] if isinstance(output, tuple) and output else output
        if isinstance(first, Tensor):
            seen[name] = first.detach().float().clone()

    return keep


def layout_for(model: nn.Module, packing: str, ids: Ids) -> Layout:
    """How a model's sequences are laid out. `auto` packs where attention skips what is not a
    sequence's own; elsewhere a mask of all tokens by all tokens costs more than padding.

    Raises UserError where packing is asked for and the model would read across sequences.
    """
    attention = str(causal_lm(model).config._attn_implementation)
    skips = "flash" in attention or attention == "flex_attention"
    if masked_diffusion(model) is not None:
        if packing == "on":
            raise UserError("packing: a masked diffusion model is read padded; leave it out")
        return MASKED
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
    inputs = [continued(ids[:1], ids[1:]), continued(ids[-1:], ids[-2::-1])]
    with evaluating(model):
        packed, padded = (
            hidden_rows(model, layout.collate(inputs, 0)).float() for layout in (PACKED, PADDED)
        )
    return bool((packed - padded).norm() <= LEAK * padded.norm())
