"""A model's parameters: the trainable ones, and a hash of all."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from torch import Tensor, nn


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that training changes, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def fingerprint(model: nn.Module) -> str:
    """A hash of a model's weights: names, shapes, and up to 256 evenly spaced entries of each."""
    return fingerprint_of(dict(model.named_parameters()))


def fingerprint_of(weights: Mapping[str, Tensor]) -> str:
    """The same hash for weights given by name."""
    digest = hashlib.sha256()
    for name, parameter in sorted(weights.items()):
        flat = parameter.detach().reshape(-1)
        sample = flat[:: max(1, flat.numel() // 256)].float().cpu().contiguous()
        digest.update(f"{name}{tuple(parameter.shape)}".encode() + sample.numpy().tobytes())
    return digest.hexdigest()[:16]
