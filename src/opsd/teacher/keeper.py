"""The weights that a teacher reads with, kept alive during training.

A keeper lends its weights to the model for the length of a forward pass, moves them after an
optimizer step, and has a state for the checkpoint.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from opsd.schedule import at
from opsd.teacher.weights import EMA, AnyWeights, External, Frozen, Live, Snapshot
from opsd.types import UserError


class Keeper(Protocol):
    """`use` yields the module to read with; `update` follows an optimizer step, counted from 1."""

    def use(self, model: nn.Module) -> contextlib.AbstractContextManager[nn.Module]: ...
    def update(self, model: nn.Module, step: int, total_steps: int = 0) -> None: ...
    def state_dict(self) -> dict[str, Tensor]: ...
    def load_state_dict(self, state: dict[str, Tensor]) -> None: ...


@dataclass
class Stateless:
    """The model as it is (`live`), or with its adapter switched off (`frozen` under LoRA)."""

    adapter_off: bool = False

    @contextlib.contextmanager
    def use(self, model: nn.Module) -> Iterator[nn.Module]:
        with model.disable_adapter() if self.adapter_off else contextlib.nullcontext():  # type: ignore[operator]
            yield model

    def update(self, model: nn.Module, step: int, total_steps: int = 0) -> None:
        """Nothing moves."""

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Nothing to restore."""


@dataclass
class Shadow:
    """A second set of the trainable parameters, taken from the model when the keeper is made."""

    choice: Frozen | EMA | Snapshot
    weights: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, model: nn.Module, choice: Frozen | EMA | Snapshot) -> Shadow:
        dtype = torch.float32 if isinstance(choice, EMA) else None
        weights = {
            name: p.detach().to(dtype or p.dtype, copy=True) for name, p in trainable(model).items()
        }
        return cls(choice, weights)

    @contextlib.contextmanager
    def use(self, model: nn.Module) -> Iterator[nn.Module]:
        own = {}
        for name, parameter in trainable(model).items():
            own[name] = parameter.data
            parameter.data = self.weights[name].to(parameter.device, parameter.dtype)
        try:
            yield model
        finally:
            for name, parameter in trainable(model).items():
                parameter.data = own[name]

    @torch.no_grad()
    def update(self, model: nn.Module, step: int, total_steps: int = 0) -> None:
        for name, parameter in trainable(model).items():
            shadow = self.weights[name] = self.weights[name].to(parameter.device)
            if isinstance(self.choice, EMA):
                decay = at(self.choice.decay, step - 1, total_steps)
                shadow.lerp_(parameter.detach().float(), 1 - decay)
            elif isinstance(self.choice, Snapshot) and step % self.choice.every == 0:
                shadow.copy_(parameter)

    def state_dict(self) -> dict[str, Tensor]:
        return {} if isinstance(self.choice, Frozen) else self.weights

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        if isinstance(self.choice, Frozen):
            return
        if state.keys() != self.weights.keys():
            raise UserError("the checkpoint's teacher has other parameters than the model trains")
        self.weights = dict(state)


@dataclass
class Other:
    """Another model of the same tokenizer, in evaluation mode, never changed."""

    model: nn.Module

    @contextlib.contextmanager
    def use(self, model: nn.Module) -> Iterator[nn.Module]:
        yield self.model

    def update(self, model: nn.Module, step: int, total_steps: int = 0) -> None:
        """Nothing moves."""

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Nothing to restore."""


def keep(choice: AnyWeights, model: nn.Module, *, starts_as_base: bool) -> Keeper:
    """The keeper of a choice of weights. `starts_as_base`: whether the model with its adapter off
    reads exactly as the model does now, so that `frozen` needs no copy."""
    if isinstance(choice, Live):
        return Stateless()
    if isinstance(choice, External):
        return Other(_load(choice, model))
    if isinstance(choice, Frozen) and starts_as_base:
        return Stateless(adapter_off=True)
    return Shadow.of(model, choice)


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that training changes, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def fingerprint(model: nn.Module) -> str:
    """A hash of a model's weights: names, shapes, and up to 256 evenly spaced entries of each."""
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        flat = parameter.detach().reshape(-1)
        sample = flat[:: max(1, flat.numel() // 256)].float().cpu().contiguous()
        digest.update(f"{name}{tuple(parameter.shape)}".encode() + sample.numpy().tobytes())
    return digest.hexdigest()[:16]


def _load(choice: External, model: nn.Module) -> nn.Module:
    from transformers import AutoModelForCausalLM

    from opsd.model import refuse_lost_adapter, resolve

    try:
        path = resolve(choice.path)
        refuse_lost_adapter(path)
        other = AutoModelForCausalLM.from_pretrained(path, dtype=choice.dtype, use_safetensors=True)
    except (OSError, ValueError) as error:
        raise UserError(f"teacher weights: cannot load '{choice.path}': {error}") from error
    config: Any = model.config
    if other.config.vocab_size < config.vocab_size:
        raise UserError(
            f"teacher '{choice.path}' has {other.config.vocab_size} tokens, the student"
            f" {config.vocab_size}: an external teacher must share the student's tokenizer"
        )
    placed: Any = other.requires_grad_(False).eval()
    return placed.to(next(model.parameters()).device)
