"""The weights that a teacher reads with, kept alive during training: swapped into the model for the
length of a forward pass, moved after an optimizer step, and saved in checkpoints."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from opsd.lm.layout import ModelInput
from opsd.lm.parameters import trainable
from opsd.lm.sharding import full_tensor, is_sharded, local, read_in, release, spread, swapped
from opsd.objective.head import Head
from opsd.types import RunFailed, UserError

Move = Callable[[int, int], float]


class TeacherDown(RunFailed):
    """Nobody reads any more for a teacher of another process. One line: how it was noticed."""


class RemoteReader(Protocol):
    """Reads in another process, with weights that do not change."""

    def ask(self, inputs: Sequence[ModelInput]) -> Callable[[], list[Tensor]]:
        """Sends sequences; what it returns waits for each one's rows `[tokens, D]`, in the host's
        memory. Raises TeacherDown there where nobody answers any more."""
        ...

    def head(self, device: torch.device) -> Head:
        """What reads the rows, on a device."""
        ...


class TeacherWeights(Protocol):
    """`use` yields the module to read with; `update` follows an optimizer step, counted from 1.

    Within `gathered`, which all processes enter together, one may use it without the others. What
    neither moves nor is kept inherits the rest.
    """

    remote: RemoteReader | None = None
    """Who reads instead, where no module of this process does: then `use` is not for them."""

    def use(self, model: nn.Module) -> contextlib.AbstractContextManager[nn.Module]: ...
    def gathered(self, model: nn.Module) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def update(self, model: nn.Module, step: int, total_steps: int = 0) -> None:
        """Follows the student, or not."""

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Takes a state back from a checkpoint."""


@dataclass
class Unchanged(TeacherWeights):
    """The model as it is (`live`), or with its adapter switched off (`frozen` under LoRA)."""

    adapter_off: bool = False

    @contextlib.contextmanager
    def use(self, model: nn.Module) -> Iterator[nn.Module]:
        with model.disable_adapter() if self.adapter_off else contextlib.nullcontext():  # type: ignore[operator]
            yield model


@dataclass
class ParameterCopy(TeacherWeights):
    """A second set of the trainable parameters, sharded like the model's own once those are.

    `move`, of the optimizer step counted from 1 and of all steps, says how far it goes towards the
    student after a step (1: it becomes the student); without it, it stays. One that is not `kept`
    in checkpoints is what the run starts with. `gathered_weights` are whole, for as long as the
    model's are."""

    weights: dict[str, Tensor]
    move: Move | None = None
    kept: bool = True
    gathered_weights: dict[str, Tensor] | None = None

    @classmethod
    def of(
        cls,
        model: nn.Module,
        *,
        move: Move | None = None,
        kept: bool = True,
        in_float32: bool = False,
    ) -> ParameterCopy:
        """A copy of the model as it is now."""
        weights = {
            name: p.detach().to(torch.float32 if in_float32 else p.dtype, copy=True)
            for name, p in trainable(model).items()
        }
        return cls(weights, move, kept)

    @contextlib.contextmanager
    def use(self, model: nn.Module) -> Iterator[nn.Module]:
        if self.gathered_weights is not None:
            with swapped(model, self.gathered_weights):
                yield model
            return
        self._follow(model)
        with swapped(model, self.weights):
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
            name: full_tensor(self.weights[name].to(read_in(model, parameter)))
            for name, parameter in trainable(model).items()
        }
        try:
            yield
        finally:
            self.gathered_weights = None

    @torch.no_grad()
    def update(self, model: nn.Module, step: int, total_steps: int = 0) -> None:
        self._follow(model)
        way = self.move(step, total_steps) if self.move else 0.0
        for name, parameter in trainable(model).items() if way else ():
            own = local(self.weights[name])
            if way == 1.0:
                own.copy_(local(parameter))
            else:
                own.lerp_(local(parameter).to(own.dtype), way)

    def _follow(self, model: nn.Module) -> None:
        """Puts the weights where the model's are by now, sharded as they are."""
        release(model)
        for name, parameter in trainable(model).items():
            self.weights[name] = spread(self.weights[name], parameter)

    def state_dict(self) -> dict[str, Tensor]:
        return self.weights if self.kept else {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        if not self.kept:
            return
        if state.keys() != self.weights.keys():
            raise UserError("the checkpoint's teacher has other parameters than the model trains")
        self.weights = dict(state)


@dataclass
class Other(TeacherWeights):
    """Another model of the same tokenizer, in evaluation mode, never changed."""

    model: nn.Module

    @contextlib.contextmanager
    def use(self, model: nn.Module) -> Iterator[nn.Module]:
        like = next(model.parameters(), None)
        yield self.model if like is None else self.model.to(like.device)


@dataclass
class Elsewhere(TeacherWeights):
    """Another model of the same tokenizer, which a server reads with. Its `fingerprint` is in
    checkpoints: a run does not go on with another teacher."""

    fingerprint: str
    remote: RemoteReader | None = None

    def use(self, model: nn.Module) -> contextlib.AbstractContextManager[nn.Module]:
        raise UserError("a served teacher reads and does not write: use the weights 'external'")

    def state_dict(self) -> dict[str, Tensor]:
        return {"fingerprint": torch.tensor(list(self.fingerprint.encode()), dtype=torch.uint8)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        before = bytes(state["fingerprint"].tolist()).decode()
        if before != self.fingerprint:
            raise UserError(
                f"the run's served teacher had the fingerprint {before}, this one has"
                f" {self.fingerprint}: serve the model that it began with"
            )
