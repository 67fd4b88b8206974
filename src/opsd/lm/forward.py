"""Forward passes over sequences: hidden states, aligned row by row with the taught tokens."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from opsd.lm.layout import PADDED, Ids, Layout, ModelInput, PackedBatch, continued, pad_right
from opsd.lm.sharding import full_tensor, is_sharded, read_in, within_forward
from opsd.objective.head import Head
from opsd.types import UserError


def causal_lm(model: nn.Module) -> Any:
    """The Transformers model under a PEFT wrapper, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]


def trunk_of(model: nn.Module) -> Any:
    """The model without its output layer."""
    base = causal_lm(model)
    return getattr(base, base.base_model_prefix)


def is_mixture_of_experts(model: nn.Module) -> bool:
    """Whether the model routes each token to some of several experts."""
    config = causal_lm(model).config.get_text_config()
    named = ("num_experts", "num_local_experts", "n_routed_experts")
    return any((getattr(config, name, None) or 0) > 1 for name in named)


def head_of(model: nn.Module, vocab: int) -> Head:
    """The model's output layer. `vocab` is the number of ids that its tokenizer can produce.

    Raises UserError if logits are not a plain product with a weight (an adapter on the head).
    """
    base = causal_lm(model)
    layer, config = base.get_output_embeddings(), base.config.get_text_config()
    if layer is None:
        raise UserError(f"{type(base).__name__} has no output embeddings; a causal LM is needed")
    if hasattr(layer, "lora_A"):
        raise UserError("LoRA on the output head is not supported: remove it from target_modules")
    scale = getattr(config, "logit_scale", None) or 1.0
    return Head(
        layer.weight,
        getattr(layer, "bias", None),
        vocab=min(vocab, layer.weight.shape[0]),
        softcap=getattr(config, "final_logit_softcapping", None),
        scale=scale / (getattr(config, "logits_scaling", None) or 1.0),
    )


def hidden_rows(model: nn.Module, batch: PackedBatch) -> Tensor:
    """The last hidden states `[N, D]` at the batch's positions."""
    batch = batch.to(next(model.parameters()).device)
    told = {"position_ids": batch.places_BL, "attention_mask": batch.mask_BL}
    told = {name: given for name, given in told.items() if given is not None}
    read = trunk_of(model)(input_ids=batch.ids_BL, use_cache=False, **told)
    hidden_BLD = read.last_hidden_state
    return hidden_BLD.flatten(0, 1).index_select(0, batch.rows_N)


def read_on(trunk: Callable[..., Any], ids_BL: Tensor, mask_BW: Tensor, cache: Any) -> Tensor:
    """The last hidden states `[B, L, D]` of tokens that follow the cache. The mask covers all
    positions, and marks those that belong to a row."""
    places = (mask_BW.cumsum(-1) - 1).clamp(min=0)[:, -ids_BL.shape[1] :]
    read = trunk(
        input_ids=ids_BL,
        attention_mask=mask_BW,
        position_ids=places,
        past_key_values=cache,
        use_cache=True,
    )
    return read.last_hidden_state


@torch.no_grad()
def score(
    model: nn.Module,
    inputs: Sequence[ModelInput],
    pad_id: int,
    vocab: int,
    layout: Layout = PADDED,
) -> tuple[Tensor, Head]:
    """A teacher's rows `[N, D]` of these sequences, and its head.

    Runs in evaluation mode: no dropout, no gradient checkpointing.
    """
    read: list[tuple[Tensor, Head]] = []
    batch = layout.collate(inputs, pad_id)
    with evaluating(model):
        within_forward(model, lambda m: read.append((hidden_rows(m, batch), head_of(m, vocab))))
    ((hidden_ND, head),) = read
    return hidden_ND, detached_head(head, model)


def read_head(model: nn.Module, vocab: int) -> Head:
    """Only a teacher's head, if its rows are already known. If the model is sharded, all processes
    must call this."""
    head = head_of(model, vocab)
    weight, bias = (
        x if x is None else full_tensor(x.detach().to(read_in(model, x)))
        for x in (head.weight, head.bias)
    )
    return replace(head, weight=weight, bias=bias)


def detached_head(head: Head, model: nn.Module) -> Head:
    """A head with its current values, without gradient, whatever happens to the model's weights."""
    if not head.trained:
        return head
    # A sharded model's gathered weights are freed after its forward pass.
    weight, bias = (
        x if x is None else x.detach().clone() if is_sharded(model) else x.detach()
        for x in (head.weight, head.bias)
    )
    return replace(head, weight=weight, bias=bias)


@contextlib.contextmanager
def in_mode(model: nn.Module, training: bool) -> Iterator[None]:
    """Within the block, the model is in training or in evaluation mode."""
    was_training = model.training
    model.train(training)
    try:
        yield
    finally:
        model.train(was_training)


def evaluating(model: nn.Module) -> contextlib.AbstractContextManager[None]:
    """Within the block, the model is in evaluation mode."""
    return in_mode(model, training=False)


@torch.no_grad()
def check_head(model: nn.Module, ids: Ids, vocab: int, tolerance: float) -> None:
    """Raises UserError unless trunk and head together give the model's own logits.

    This detects architectures that scale, cap or shift their logits in a way that `Head` does not
    support.
    """
    padded = pad_right([continued(ids[:1], ids[1:])], 0)
    with evaluating(model):
        ours = head_of(model, vocab).logits(hidden_rows(model, padded))
        device = next(model.parameters()).device
        theirs = causal_lm(model)(input_ids=padded.ids_BL.to(device)).logits[0, :-1]
    theirs = theirs[:, : ours.shape[-1]].float().log_softmax(-1)
    gap = (ours.log_softmax(-1) - theirs).abs().max().item()
    if not gap <= tolerance:
        raise UserError(
            f"{type(causal_lm(model)).__name__}: its logits are not its output weight times its"
            f" last hidden state (off by {gap:.2g} nats); the exact loss cannot be computed for it"
        )
