"""The weights that a teacher reads with, kept alive during training.

A keeper lends its weights to the model for the length of a forward pass, moves them after an
optimizer step, and has a state for the checkpoint.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from opsd.lm.parameters import trainable
from opsd.lm.sharding import is_sharded, lent, local, read_in, release, spread, whole
from opsd.schedule import at
from opsd.teacher.weights import EMA, AnyWeights, External, Frozen, Live, Snapshot
from opsd.types import UserError


class TeacherWeights(Protocol):
    """`use` yields the module to read with; `update` follows an optimizer step, counted from 1.

    Within `gathered`, which all processes enter together, one may use it without the others.
    """

    def use(self, model: nn.Module) -> contextlib.AbstractContextManager[nn.Module]: ...
    def gathered(self, model: nn.Module) -> contextlib.AbstractContextManager[None]: ...
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

    def gathered(self, model: nn.Module) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def update(self, model: nn.Module, step: int, total_steps: int = 0) -> None:
        """Nothing moves."""

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Nothing to restore."""


@dataclass
class ParameterCopy:
    """A second set of the trainable parameters, taken from the model when the keeper is made, and
    sharded like the model's own once those are. `gathered_weights` are whole, for as long as the
    model's are."""

    choice: Frozen | EMA | Snapshot
    weights: dict[str, Tensor] = field(default_factory=dict)
    gathered_weights: dict[str, Tensor] | None = None

    @classmethod
    def of(cls, model: nn.Module, choice: Frozen | EMA | Snapshot) -> ParameterCopy:
        dtype = torch.float32 if isinstance(choice, EMA) else None
        weights = {
            name: p.detach().to(dtype or p.dtype, copy=True) for name, p in trainable(model).items()
        }
        return cls(choice, weights)

    @contextlib.contextmanager
    def use(self, model: nn.Module) -> Iterator[nn.Module]:
        if self.gathered_weights is not None:
            with lent(model, self.gathered_weights):
                yield model
            return
        self._follow(model)
        with lent(model, self.weights):
            try:
                yield model
            finally:
                release(model)

    @contextlib.contextmanager
    def gathered(self, model: nn.Module) -> Iterator[None]:
        if not is_sharded(model):
            yield
            return
        self._follow(model)
        self.gathered_weights = {
            name: whole(self.weights[name].to(read_in(model, parameter)))
            for name, parameter in trainable(model).items()
        }
        try:
            yield
        finally:
            self.gathered_weights = None

    @torch.no_grad()
    def update(self, model: nn.Module, step: int, total_steps: int = 0) -> None:
        self._follow(model)
        for name, parameter in trainable(model).items():
            shadow = local(self.weights[name])
            if isinstance(self.choice, EMA):
                decay = at(self.choice.decay, step - 1, total_steps)
                shadow.lerp_(local(parameter).float(), 1 - decay)
            elif isinstance(self.choice, Snapshot) and step % self.choice.every == 0:
                shadow.copy_(local(parameter))

    def _follow(self, model: nn.Module) -> None:
        """Puts the weights where the model's are by now, sharded as they are."""
        release(model)
        for name, parameter in trainable(model).items():
            self.weights[name] = spread(self.weights[name], parameter)

    def state_dict(self) -> dict[str, Tensor]:
        if isinstance(self.choice, Frozen):
            return {}
        return self.weights

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
        like = next(model.parameters(), None)
        yield self.model if like is None else self.model.to(like.device)

    def gathered(self, model: nn.Module) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def update(self, model: nn.Module, step: int, total_steps: int = 0) -> None:
        """Nothing moves."""

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Nothing to restore."""


def keep(
    choice: AnyWeights,
    model: nn.Module,
    *,
    starts_as_base: bool,
    load: Callable[[External], nn.Module],
) -> TeacherWeights:
    """The keeper of a choice of weights. `starts_as_base`: whether the model with its adapter off
    reads exactly as the model does now, so that `frozen` needs no copy. `load` gives another
    model."""
    if isinstance(choice, Live):
        return Stateless()
    if isinstance(choice, External):
        return Other(load(choice).requires_grad_(False).eval())
    if isinstance(choice, Frozen) and starts_as_base:
        return Stateless(adapter_off=True)
    return ParameterCopy.of(model, choice)
