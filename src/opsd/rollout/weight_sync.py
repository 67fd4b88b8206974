"""The student's weights, handed to an engine that keeps a copy of them, and whether it reads as the
student does."""

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
"""How the completion is drawn that the two are compared on."""


def refuse_another(model: nn.Module, base: Any) -> None:
    """Raises UserError where the weights are another model's than the engine's."""
    if causal_lm(model) is not base:
        raise UserError(
            "engine: this one writes with the student's model only, and this method has another"
            " write; set engine: hf"
        )


def adapter_of(model: nn.Module) -> Any:
    """The PEFT model, where its adapter takes part at present; None for the plain model."""
    off = getattr(model, "active_adapter", None) is None or any(
        getattr(layer, "disable_adapters", False) is True for layer in model.modules()
    )
    return None if off else model


def save_adapter(model: Any, folder: Path) -> Path:
    """The active adapter as files; a sharded model's weights have to be gathered. Raises UserError
    for what an engine cannot put on."""
    config = model.peft_config[model.active_adapter]
    if config.peft_type != "LORA" or config.use_dora or config.modules_to_save:
        raise UserError(
            "engine: this one puts on plain LoRA only (no DoRA, no modules_to_save); set engine: hf"
        )
    # Asked for its state, a sharded model would take its gathered weights apart again.
    state = {name: parameter.detach() for name, parameter in model.named_parameters()}
    name = model.active_adapter
    model.save_pretrained(str(folder), selected_adapters=[name], state_dict=state)
    return folder


def save_whole(model: nn.Module, folder: Path) -> Path:
    """The model as files."""
    causal_lm(model).save_pretrained(str(folder))
    return folder


def whole_weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Names and values of all weights, a tied one once."""
    for name, parameter in causal_lm(model).named_parameters():
        yield name, parameter.detach()


@torch.no_grad()
def disagreement(
    model: nn.Module, prompt: Ids, made: Completion, vocab: int, temperature: float = 1.0
) -> float:
    """The largest difference, in nats, between the log-probabilities that came with a completion
    and the model's own at this temperature."""
    with evaluating(model):
        hidden_ND = hidden_rows(model, pad_right([continued(prompt, made.ids)], 0))
        logp = head_of(model, vocab).logits(hidden_ND).div(temperature).log_softmax(-1)
    tokens = torch.tensor(made.ids, device=logp.device).unsqueeze(-1)
    theirs = torch.tensor(made.logprobs, device=logp.device)
    return (logp.gather(-1, tokens).squeeze(-1) - theirs).abs().max().item()


def refuse_disagreement(
    gap: float, tolerance: float | None, dtype: torch.dtype, remedy: str = ""
) -> None:
    """Raises UserError where the engine reads with other weights than the student's."""
    allowed = tolerance or (1e-3 if dtype == torch.float32 else 0.3)
    if not gap <= allowed:
        raise UserError(
            f"engine: its log-probabilities are {gap:.2g} nats from the trainer's, more than"
            f" {allowed:g}: it reads with other weights, or another precision. Nothing is trained"
            " on such rollouts; raise engine.tolerance only if the precisions explain it"
            f"{remedy and '; '}{remedy}"
        )
