"""Passes the student's weights to an engine that has its own copy, and checks that the engine's
log-probabilities agree with the student's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from opsd.lm.forward import causal_lm, evaluating, head_of, hidden_rows
from opsd.lm.layout import Ids, continued, pad_right
from opsd.rollout.engine import Completion, Sampling
from opsd.types import UserError

PROBED = Sampling(temperature=1.0, max_tokens=16)
"""How the completion is sampled on which the two are compared."""


def refuse_another(model: nn.Module, base: Any) -> None:
    """Raises UserError if the weights are not those of the engine's model."""
    if causal_lm(model) is not base:
        raise UserError(
            "engine: this one generates only with the student's model, but the method generates"
            " with another one; set engine: hf"
        )


def adapter_of(model: nn.Module) -> Any:
    """The PEFT model if its adapter is currently active, else None."""
    off = getattr(model, "active_adapter", None) is None or any(
        getattr(layer, "disable_adapters", False) is True for layer in model.modules()
    )
    return None if off else model


def save_adapter(model: Any, folder: Path) -> Path:
    """Save the active adapter as files; a sharded model's weights must be gathered. Raises
    UserError for an adapter that engines do not support."""
    config = model.peft_config[model.active_adapter]
    if config.peft_type != "LORA" or config.use_dora or config.modules_to_save:
        raise UserError(
            "engine: this one supports only plain LoRA (no DoRA or modules_to_save); set engine: hf"
        )
    # `state_dict()` of a sharded model would shard its gathered weights again.
    state = {name: parameter.detach() for name, parameter in model.named_parameters()}
    name = model.active_adapter
    model.save_pretrained(str(folder), selected_adapters=[name], state_dict=state)
    return folder


def save_whole(model: nn.Module, folder: Path) -> Path:
    """Save the model as files."""
    causal_lm(model).save_pretrained(str(folder))
    return folder


def whole_weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The names and values of all weights; tied ones occur once."""
    for name, parameter in causal_lm(model).named_parameters():
        yield name, parameter.detach()


@torch.no_grad()
def disagreement(
    model: nn.Module, prompt: Ids, made: Completion, vocab: int, temperature: float = 1.0
) -> float:
    """The largest difference, in nats, between a completion's log-probabilities and the model's own
    at this temperature."""
    with evaluating(model):
        hidden_ND = hidden_rows(model, pad_right([continued(prompt, made.ids)], 0))
        logp = head_of(model, vocab).logits(hidden_ND).div(temperature).log_softmax(-1)
    tokens = torch.tensor(made.ids, device=logp.device).unsqueeze(-1)
    theirs = torch.tensor(made.logprobs, device=logp.device)
    return (logp.gather(-1, tokens).squeeze(-1) - theirs).abs().max().item()


def refuse_disagreement(
    gap: float, tolerance: float | None, dtype: torch.dtype, remedy: str = ""
) -> None:
    """Raises UserError if the engine's weights differ from the student's."""
    allowed = tolerance or (1e-3 if dtype == torch.float32 else 0.3)
    if not gap <= allowed:
        raise UserError(
            f"engine: its log-probabilities are {gap:.2g} nats from the trainer's, more than"
            f" {allowed:g}: it uses other weights, or another precision. Training stops rather than"
            " use such rollouts; raise engine.tolerance only if the precisions explain it"
            f"{remedy and '; '}{remedy}"
        )
