"""From rollouts to tensors. The only place that pads, or packs instead."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Ids = Sequence[int]


@dataclass(frozen=True)
class PackedBatch:
    """Sequences as one rectangle, and where their completions are read.

    `rows_N` indexes the flattened `[B * L]` positions whose next token is a completion token, in
    the order of the completions. `places_BL` counts each token's place in its own sequence, where
    several share a row.
    """

    ids_BL: Tensor
    rows_N: Tensor
    places_BL: Tensor | None = None

    def to(self, device: torch.device) -> PackedBatch:
        places_BL = None if self.places_BL is None else self.places_BL.to(device)
        return PackedBatch(self.ids_BL.to(device), self.rows_N.to(device), places_BL)


def pad_right(prompts: Sequence[Ids], completions: Sequence[Ids], pad_id: int) -> PackedBatch:
    """Prompts followed by their completions, for a forward pass over both. Padding on the right of
    a causal model changes nothing to its left, so that no attention mask is needed.

    A completion token at position t is predicted at prompt length - 1 + t, whatever the prompt:
    two roles with different prompts give rows of the same tokens in the same order.
    """
    sequences = _sequences(prompts, completions)
    width = max(map(len, sequences))
    ids = torch.tensor([s + [pad_id] * (width - len(s)) for s in sequences])
    starts = [i * width for i in range(len(sequences))]
    return PackedBatch(ids, _rows(starts, prompts, completions))


def pack(prompts: Sequence[Ids], completions: Sequence[Ids], pad_id: int) -> PackedBatch:
    """The same one after another in a single row without padding. Places that start anew tell
    attention where a sequence begins."""
    sequences = _sequences(prompts, completions)
    lengths = [len(sequence) for sequence in sequences]
    ids = torch.tensor([[token for sequence in sequences for token in sequence]])
    places = torch.cat([torch.arange(length) for length in lengths]).unsqueeze(0)
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    return PackedBatch(ids, _rows(starts, prompts, completions), places)


def _sequences(prompts: Sequence[Ids], completions: Sequence[Ids]) -> list[list[int]]:
    return [[*p, *c] for p, c in zip(prompts, completions, strict=True)]


def _rows(starts: Sequence[int], prompts: Sequence[Ids], completions: Sequence[Ids]) -> Tensor:
    """Where completion tokens are predicted, in sequences that start at these positions."""
    pairs = zip(starts, prompts, completions, strict=True)
    return torch.cat([torch.arange(len(c)) + start + len(p) - 1 for start, p, c in pairs])


@dataclass(frozen=True)
class Layout:
    """How sequences become a batch, and how many tokens it has for sequences of some lengths."""

    collate: Callable[[Sequence[Ids], Sequence[Ids], int], PackedBatch]
    tokens: Callable[[Sequence[int]], int]


PADDED = Layout(pad_right, lambda lengths: max(lengths) * len(lengths))
PACKED = Layout(pack, sum)


def pad_left(prompts: Sequence[Ids], pad_id: int) -> tuple[Tensor, Tensor]:
    """Prompts `[B, P]` and their attention mask, for generation."""
    width = max(map(len, prompts))
    ids = torch.tensor([[pad_id] * (width - len(p)) + list(p) for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    return ids, mask
