"""Attention during generation: one token of each row attends to everything in the cache."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

_NAME = "opsd_grouped"


def _grouped(
    module: nn.Module,
    query_BHLK: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **rest: Any,
) -> tuple[Tensor, None]:
    """Transformers' `sdpa`, except for a single token: heads that share keys and values become
    several queries of the same ones, whereas `sdpa` copies the cache for each head at every
    token."""
    heads, length = query_BHLK.shape[1:3]
    groups = heads // key.shape[1]
    # On a GPU a mask selects other kernels, which were not measured.
    plain = query_BHLK.device.type == "cpu" and rest.get("position_bias") is None
    if length > 1 or groups == 1 or not plain:
        given = (query_BHLK, key, value, attention_mask)
        return sdpa_attention_forward(module, *given, scaling=scaling, **rest)
    grouped = query_BHLK.unflatten(1, (-1, groups)).flatten(2, 3)
    read = scaled_dot_product_attention(grouped, key, value, attention_mask, scale=scaling)
    return read.unflatten(2, (groups, length)).flatten(1, 2).transpose(1, 2).contiguous(), None


AttentionInterface.register(_NAME, _grouped)
AttentionMaskInterface.register(_NAME, sdpa_mask)


@contextlib.contextmanager
def shared_heads(model: nn.Module) -> Iterator[None]:
    """Within the block, `sdpa` attention does not copy keys and values. Other implementations are
    unchanged."""
    configs: dict[int, Any] = {
        id(module.config): module.config
        for module in model.modules()
        if getattr(getattr(module, "config", None), "_attn_implementation", None) == "sdpa"
    }
    try:
        for config in configs.values():
            config._attn_implementation = _NAME
        yield
    finally:
        for config in configs.values():
            config._attn_implementation = "sdpa"
