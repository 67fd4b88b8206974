"""The weights of teachers during training: they are swapped into the model for a forward pass,
updated after optimizer steps, and saved in checkpoints."""

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
    """No server answers for a teacher that runs in another process. One line: how it was
    noticed."""


class RemoteReader(Protocol):
    """A teacher in another process, whose weights do not change."""

    def ask(self, inputs: Sequence[ModelInput]) -> Callable[[], list[Tensor]]:
        """Send sequences. Returns a function that waits for their rows `[tokens, D]`, in host
        memory, and raises TeacherDown if no server answers any more."""
        ...

    def head(self, device: torch.device) -> Head:
        """The head that turns the rows into logits, on a device."""
        ...


class TeacherWeights(Protocol):
    """`use` yields the module for the teacher's forward pass; `update` is called after an optimizer
    step, counted from 1.

    Within `gathered`, which all processes enter together, each may use the weights independently.
    Weights that neither change nor are saved inherit the other methods.
    """

    remote: RemoteReader | None = None
    """The remote teacher, if no module of this process scores; `use` is then not available."""

    def use(self, model: nn.Module) -> contextlib.AbstractContextManager[nn.Module]: ...
    def gathered(self, model: nn.Module) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def update(self, model: nn.Module, step: int, total_steps: int = 0) -> None:
        """Update the weights from the student; by default, do nothing."""

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore a state from a checkpoint."""


@dataclass
class Unchanged(TeacherWeights):
    """The model itself (`live`), or the model with its adapter disabled (`frozen` under LoRA)."""

    adapter_off: bool = False

    @contextlib.contextmanager
    def use(self, model: nn.Module) -> Iterator[nn.Module]:
        with model.disable_adapter() if self.adapter_off else contextlib.nullcontext():  # type: ignore[operator]
            yield model


@dataclass
class ParameterCopy(TeacherWeights):
    """A second copy of the trainable parameters, sharded like the model's once those are.

    `move` maps the optimizer step, counted from 1, and the total number of steps to how far the
    copy moves towards the student after a step (1: it becomes the student). Without `move` it never
    changes. A copy that is not `kept` in checkpoints is always what the run starts with.
    `gathered_weights` are the complete weights, while the model's are gathered."""

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
        """A copy of the model's current trainable parameters."""
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
        """Move the weights to the model's current devices, sharded like the model's."""
        release(model)
        for name, parameter in trainable(model).items():
            self.weights[name] = spread(self.weights[name], parameter)

    def state_dict(self) -> dict[str, Tensor]:
        return self.weights if self.kept else {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        if not self.kept:
            return
        if state.keys() != self.weights.keys():
            raise UserError("the checkpoint's teacher has other parameters than those in training")
        self.weights = dict(state)


@dataclass
class Other(TeacherWeights):
    """Another model with the same tokenizer, in evaluation mode, never changed."""

    model: nn.Module

    @contextlib.contextmanager
    def use(self, model: nn.Module) -> Iterator[nn.Module]:
        like = next(model.parameters(), None)
        yield self.model if like is None else self.model.to(like.device)


@dataclass
class Elsewhere(TeacherWeights):
    """Another model with the same tokenizer, behind a server. Checkpoints contain its
    `fingerprint`, so that a run cannot be resumed with another teacher."""

    fingerprint: str
    remote: RemoteReader | None = None

    def use(self, model: nn.Module) -> contextlib.AbstractContextManager[nn.Module]:
        raise UserError("a served teacher only scores: to generate, use the weights 'external'")

    def state_dict(self) -> dict[str, Tensor]:
        return {"fingerprint": torch.tensor(list(self.fingerprint.encode()), dtype=torch.uint8)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        before = bytes(state["fingerprint"].tolist()).decode()
        if before != self.fingerprint:
            raise UserError(
                f"the run's served teacher had the fingerprint {before}, this one has"
                f" {self.fingerprint}: serve the model that the run started with"
            )
