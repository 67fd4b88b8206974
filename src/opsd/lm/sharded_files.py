"""Checkpoints of a model that FSDP2 shards: the same files as without sharding, so that a run can
be resumed on another number of processes, or without sharding."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy

from opsd.lm.sharding import full_tensors_on_first, local, spread
from opsd.types import UserError


def reduce_in_float32(accelerator: Any) -> None:
    """Under FSDP2, Accelerate would otherwise sum gradients, and return the loss, in bfloat16."""
    plugin: Any = getattr(accelerator.state, "fsdp_plugin", None)
    if plugin is not None and isinstance(plugin.mixed_precision_policy, MixedPrecisionPolicy):
        exact = {"reduce_dtype": torch.float32, "output_dtype": None}
        policy = dataclasses.replace(plugin.mixed_precision_policy, **exact)
        plugin.mixed_precision_policy = policy


def save_optimizer(optimizer: Any, scheduler: Any, folder: Path, *, main: bool) -> None:
    """Save the complete state of an optimizer and its schedule. All processes must call this; the
    `main` one writes."""
    state: Any = optimizer.state_dict()
    state["state"] = {
        number: full_tensors_on_first(values) for number, values in state["state"].items()
    }
    if main:
        torch.save(state, folder / "optimizer.pt")
        torch.save(scheduler.state_dict(), folder / "scheduler.pt")


def load_optimizer(optimizer: Any, scheduler: Any, folder: Path) -> None:
    """Load into shards the state that `save_optimizer`, or the Trainer without sharding, has
    saved."""
    # Memory-mapped, so that the processes of a machine share one copy.
    state = torch.load(folder / "optimizer.pt", mmap=True, weights_only=True)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for number, values in state["state"].items():
        for name, value in values.items():
            if isinstance(value, Tensor) and value.shape == parameters[number].shape:
                values[name] = spread(value, parameters[number])
    optimizer.load_state_dict(state)
    scheduler.load_state_dict(torch.load(folder / "scheduler.pt", weights_only=True))


@torch.no_grad()
def load_weights(model: nn.Module, folder: Path) -> None:
    """Load a model's weights, or its adapter's, from the safetensors files of a folder, sharded or
    not."""
    held: dict[str, Tensor]
    held = get_peft_model_state_dict(model) if isinstance(model, PeftModel) else model.state_dict()
    for file in sorted(folder.glob("*.safetensors")):
        for name, value in load_file(file).items():
            if name not in held:
                raise UserError(f"{file}: the model has no weight '{name}'")
            local(held[name]).copy_(local(spread(value, held[name])))
