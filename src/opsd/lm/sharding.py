"""Models whose weights are sharded over the processes (FSDP2): how they are used, and how other
weights are sharded like them.

A layer's weights are complete only while the layer runs: the wrapped model's hooks gather them from
all processes. So all processes must run the same number of forward passes, except within
`summon_full_params`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor


def is_sharded(model: nn.Module) -> bool:
    return isinstance(model, FSDPModule)


def within_forward(model: nn.Module, read: Callable[[nn.Module], None]) -> None:
    """Runs `read(model)`; for a sharded model, within its forward pass, whose hooks gather
    weights."""
    if is_sharded(model):
        model(objective=read)
    else:
        read(model)


@contextlib.contextmanager
def summon_full_params(model: nn.Module) -> Iterator[None]:
    """Within the block, all of a model's weights are complete on every process, so that each can
    run any number of forward passes. All processes must enter and leave together; no training
    meanwhile."""
    units = _units(model)
    if units:
        model(objective=_nothing)  # units can be gathered only after a first forward
    keep = {unit: _frees_after_forward(unit) for unit in units}
    for unit in units:
        unit.unshard()
        unit.set_reshard_after_forward(False, recurse=False)
    try:
        yield
    finally:
        for unit, frees in keep.items():
            unit.set_reshard_after_forward(frees, recurse=False)
        release(model)


def release(model: nn.Module) -> None:
    """Free the gathered weights of a sharded model, so that its shards are in force again."""
    for unit in _units(model):
        unit.reshard()


@contextlib.contextmanager
def swapped(model: nn.Module, values: Mapping[str, Tensor]) -> Iterator[None]:
    """Within the block, replace some of the model's parameters, given by name: by complete values,
    or by shards for a sharded model."""
    parameters = dict(model.named_parameters())
    own: dict[str, Tensor] = {}
    try:
        for name, value in values.items():
            parameter = parameters[name]
            if isinstance(parameter, DTensor):
                own[name] = local(parameter).clone()
                local(parameter).copy_(local(value))
            else:
                own[name] = parameter.data
                parameter.data = value.to(parameter.device, parameter.dtype)
        yield
    finally:
        for name, value in own.items():
            parameter = parameters[name]
            if isinstance(parameter, DTensor):
                local(parameter).copy_(value)
            else:
                parameter.data = value


def spread(value: Tensor, parameter: Tensor) -> Tensor:
    """Move a value that every process has completely to the parameter's device, sharded like the
    parameter."""
    if isinstance(value, DTensor) or not isinstance(parameter, DTensor):
        return value.to(parameter.device)
    mesh, placements = parameter.device_mesh, parameter.placements
    # Each process takes its shard from its own copy.
    return distribute_tensor(value.to(parameter.device), mesh, placements, src_data_rank=None)


def local(tensor: Tensor) -> Tensor:
    """This process's shard of a tensor, without gradient; writes to it change the tensor."""
    tensor = tensor.detach()
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def full_tensor(tensor: Tensor) -> Tensor:
    """The complete tensor. If it is sharded, all processes must call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def full_tensors_on_first(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """The complete tensors, on the CPU of the first process; other processes get only those that
    are not sharded. All processes must call this."""
    first = not dist.is_initialized() or dist.get_rank() == 0
    kept: dict[str, Any] = {}
    for name, tensor in tensors.items():
        value = full_tensor(tensor) if isinstance(tensor, DTensor) else tensor
        if first or value is tensor:
            kept[name] = value.cpu() if isinstance(value, Tensor) else value
    return kept


def read_in(model: nn.Module, parameter: Tensor) -> torch.dtype:
    """The dtype in which a parameter is gathered."""
    policy = model._get_fsdp_state()._mp_policy if isinstance(model, FSDPModule) else None
    return (policy and policy.param_dtype) or parameter.dtype


def _units(model: nn.Module) -> list[Any]:
    """The modules whose weights are gathered together, the whole model first."""
    if not is_sharded(model):
        return []
    return [module for module in model.modules() if isinstance(module, FSDPModule)]


def _frees_after_forward(unit: Any) -> bool:
    # PyTorch has only a setter.
    return any(group._reshard_after_forward for group in unit._get_fsdp_state()._fsdp_param_groups)


def _nothing(model: nn.Module) -> Tensor:
    return torch.zeros(())
