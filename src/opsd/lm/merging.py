"""Merges an adapter into the weights temporarily, while a model is used without training."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from opsd.lm.sharding import is_sharded, swapped


@contextlib.contextmanager
def merged(model: nn.Module) -> Iterator[None]:
    """Within the block, plain LoRA is added to the linear weights under it, so that a token costs
    the same as without an adapter: the two small products per layer, with their overhead, are
    saved.

    Layers for which the sum would be another function are not merged: those with another kind of
    adapter or variant (DoRA), with several adapters, on quantized, sharded or shared weights, or in
    a precision too coarse for an adapter's small changes (bfloat16). Afterwards the weights are
    restored bit for bit; meanwhile merged weights are in memory twice.
    """
    layers = dict(_plain_layers(model))
    with torch.no_grad():
        sums = {f"{name}.base_layer.weight": _sum(layer) for name, layer in layers.items()}
    with swapped(model, sums):
        try:
            for layer in layers.values():
                layer.merged_adapters.extend(layer.active_adapters)  # so that PEFT adds nothing
            yield
        finally:
            for layer in layers.values():
                layer.merged_adapters.clear()


def _plain_layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """The layers whose adapter can be added to their weight exactly, by name."""
    if is_sharded(model) or not hasattr(model, "peft_config"):
        return
    from peft.tuners.lora import Linear

    holders = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    for name, module in model.named_modules():
        if type(module) is Linear and _exact(module) and holders[id(module.base_layer.weight)] == 1:
            yield name, module


def _exact(layer: Any) -> bool:
    (adapter, *others) = layer.active_adapters or [None]
    return (
        adapter in layer.lora_A
        and not others
        and adapter not in layer.lora_variant
        and not layer.lora_bias[adapter]
        and not layer.disable_adapters
        and not layer.merged
        and type(layer.base_layer) is nn.Linear
        and layer.base_layer.weight.dtype == torch.float32
        and not torch.is_autocast_enabled(layer.base_layer.weight.device.type)
    )


def _sum(layer: Any) -> Tensor:
    (adapter,) = layer.active_adapters
    return layer.base_layer.weight + layer.get_delta_weight(adapter)
