"""Turns sequences into tensors. The only place that pads or packs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

Ids = Sequence[int]


class ModelInput(NamedTuple):
    """Token ids of one sequence, and the positions whose hidden states are needed, in order."""

    ids: tuple[int, ...]
    read: Sequence[int]

    @property
    def prompt(self) -> tuple[int, ...]:
        """The prompt, if the positions are those that predict a completion's tokens."""
        return self.ids[: len(self.ids) - len(self.read)]

    @property
    def completion(self) -> tuple[int, ...]:
        """The completion, likewise."""
        return self.ids[len(self.ids) - len(self.read) :]


def continued(prompt: Ids, completion: Ids) -> ModelInput:
    """A prompt and its completion, with the positions that predict the completion's tokens: token t
    at prompt length - 1 + t. So two roles with different prompts give rows for the same tokens in
    the same order."""
    first = len(prompt) - 1
    return ModelInput((*prompt, *completion), range(first, first + len(completion)))


@dataclass(frozen=True)
class PackedBatch:
    """Sequences as one rectangular batch, with the positions that are needed.

    `rows_N` are the needed positions in the flattened `[B * L]` batch, sequence by sequence.
    `places_BL` are the position ids within each sequence, if several share a row. `mask_BL` marks
    the tokens that are not padding, if the model would attend to padding.
    """

    ids_BL: Tensor
    rows_N: Tensor
    places_BL: Tensor | None = None
    mask_BL: Tensor | None = None

    def to(self, device: torch.device) -> PackedBatch:
        own = (self.ids_BL, self.rows_N, self.places_BL, self.mask_BL)
        return PackedBatch(*(x if x is None else x.to(device) for x in own))  # type: ignore[arg-type]


def pad_right(inputs: Sequence[ModelInput], pad_id: int) -> PackedBatch:
    """One sequence per row. In a causal model, padding on the right changes nothing to its left, so
    no attention mask is needed."""
    width = max(len(x.ids) for x in inputs)
    ids = torch.tensor([[*x.ids, *[pad_id] * (width - len(x.ids))] for x in inputs])
    return PackedBatch(ids, _rows([i * width for i in range(len(inputs))], inputs))


def pad_and_mask(inputs: Sequence[ModelInput], pad_id: int) -> PackedBatch:
    """The same for a bidirectional model, with a mask that hides the padding."""
    padded = pad_right(inputs, pad_id)
    lengths = torch.tensor([len(x.ids) for x in inputs]).unsqueeze(-1)
    mask = torch.arange(padded.ids_BL.shape[1]) < lengths
    return replace(padded, mask_BL=mask.long())


def pack(inputs: Sequence[ModelInput], pad_id: int) -> PackedBatch:
    """All sequences in a single row without padding. Position ids that restart at 0 tell attention
    where a sequence begins."""
    lengths = [len(x.ids) for x in inputs]
    ids = torch.tensor([[token for x in inputs for token in x.ids]])
    places = torch.cat([torch.arange(length) for length in lengths]).unsqueeze(0)
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    return PackedBatch(ids, _rows(starts, inputs), places)


def _rows(starts: Sequence[int], inputs: Sequence[ModelInput]) -> Tensor:
    """The needed positions of sequences that start at these offsets."""
    pairs = zip(starts, inputs, strict=True)
    return torch.cat([torch.tensor(x.read, dtype=torch.long) + start for start, x in pairs])


@dataclass(frozen=True)
class Layout:
    """How sequences become a batch, and how many tokens that batch has, given the sequences'
    lengths."""

    collate: Callable[[Sequence[ModelInput], int], PackedBatch]
    tokens: Callable[[Sequence[int]], int]


PADDED = Layout(pad_right, lambda lengths: max(lengths) * len(lengths))
MASKED = Layout(pad_and_mask, PADDED.tokens)
PACKED = Layout(pack, sum)


def pad_left(prompts: Sequence[Ids], pad_id: int) -> tuple[Tensor, Tensor]:
    """Prompts `[B, P]` and their attention mask, for generation."""
    width = max(map(len, prompts))
    ids = torch.tensor([[pad_id] * (width - len(p)) + list(p) for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    return ids, mask
