"""Checks before the first step that the frozen teacher predicts what the student starts with."""

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
"""The largest difference, in nats, at which two forward passes of one prompt count as equal."""

LOW_PRECISION = 1e-2
"""The same for precisions below float32, in which the kernels of the two modes may round
differently."""

NOISE = 1e-4
"""The same for repeated passes below float32, since not every kernel is bitwise reproducible."""

_REPEATS = 8

LEAK = 0.05
"""The largest difference of packed rows from padded ones, relative to their size, that may be
rounding. Attention to another sequence's tokens causes a larger one."""


def refuse_prompt_learning(config: Any) -> None:
    """Raises UserError for the PEFT configuration of a prompt-learning adapter."""
    if config.is_prompt_learning:
        raise UserError(
            "a frozen teacher is impossible with prompt-learning adapters (prefix, prompt or"
            " p-tuning): use LoRA, or full fine-tuning"
        )


@torch.no_grad()
def starts_as_base(model: nn.Module, ids: Ids, vocab: int) -> bool:
    """Whether disabling the adapter changes nothing yet, so that the model without it can serve as
    the frozen teacher. False for a model without an adapter, and for one whose adapter does not
    start at zero (PiSSA, OLoRA, a trained one) or that trains more than the adapter (biases): those
    need a copy.

    Raises UserError for prompt-learning adapters, whose weights cannot be set aside.
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
    """Raises UserError if the model, in training mode, is not deterministic or differs from
    evaluation mode, in which teachers run: because of noise, dropout, skipped layers, or anything
    else that only training has. Divergences would then be meaningless.

    Differences are measured as divergences of a text's next-token distributions, in nats per token.
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
    found = f"; it starts in {culprit}" if (culprit := _first_other(model, batch)) else ""
    raise UserError(
        f"{kind} reads one text differently in training mode (by {max(noise, gap):.2g} nats a"
        f" token){found}: student and teacher could never agree. Set what makes it random to 0 in"
        " the model's config.json"
    )


def _logp(model: nn.Module, batch: PackedBatch, vocab: int) -> Tensor:
    """Log-probabilities `[N, V]` of the next tokens, in the model's current mode."""
    return head_of(model, vocab).logits(hidden_rows(model, batch)).log_softmax(-1)


def _apart(one: Tensor, other: Tensor) -> float:
    """The largest divergence of two rows of log-probabilities, in nats."""
    return float(forward_kl(one.double(), other.double()).abs().max())


def _first_other(model: nn.Module, batch: PackedBatch) -> str | None:
    """The first (innermost) module whose output in training mode differs from that in evaluation
    mode."""
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
    """The layout of a model's sequences. `auto` packs if the attention kernel skips other
    sequences' tokens; otherwise a mask of all tokens by all tokens would cost more than padding.

    Raises UserError if packing is requested and the model would attend across sequences.
    """
    attention = str(causal_lm(model).config._attn_implementation)
    skips = "flash" in attention or attention == "flex_attention"
    if masked_diffusion(model) is not None:
        if packing == "on":
            raise UserError("packing: not possible for a masked diffusion model; leave it out")
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
    """Whether the model computes the same for packed sequences as for each one alone."""
    if not attends(model):
        return False
    inputs = [continued(ids[:1], ids[1:]), continued(ids[-1:], ids[-2::-1])]
    with evaluating(model):
        packed, padded = (
            hidden_rows(model, layout.collate(inputs, 0)).float() for layout in (PACKED, PADDED)
        )
    return bool((packed - padded).norm() <= LEAK * padded.norm())
