"""From rollouts to tensors. The only place that pads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Ids = Sequence[int]


@dataclass(frozen=True)
class Padded:
    """Sequences as one rectangle, padded on the right, and where their completions are read.

    `rows_N` indexes the flattened `[B * L]` positions whose next token is a completion token, in
    the order of the completions. Padding on the right of a causal model changes nothing to its
    left, so that no attention mask is needed.
    """

    ids_BL: Tensor
    rows_N: Tensor

    def to(self, device: torch.device) -> Padded:
        return Padded(self.ids_BL.to(device), self.rows_N.to(device))


def pad_right(prompts: Sequence[Ids], completions: Sequence[Ids], pad_id: int) -> Padded:
    """Prompts followed by their completions, for a forward pass over both.

    A completion token at position t is predicted at prompt length - 1 + t, whatever the prompt:
    two roles with different prompts give rows of the same tokens in the same order.
    """
    sequences = [[*p, *c] for p, c in zip(prompts, completions, strict=True)]
    width = max(map(len, sequences))
    rows = [
        torch.arange(len(c)) + i * width + len(p) - 1
        for i, (p, c) in enumerate(zip(prompts, completions, strict=True))
    ]
    ids = torch.tensor([s + [pad_id] * (width - len(s)) for s in sequences])
    return Padded(ids, torch.cat(rows))


def pad_left(prompts: Sequence[Ids], pad_id: int) -> tuple[Tensor, Tensor]:
    """Prompts `[B, P]` and their attention mask, for generation."""
    width = max(map(len, prompts))
    ids = torch.tensor([[pad_id] * (width - len(p)) + list(p) for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    return ids, mask
