"""Processes the common beginning of several sequences once: a prompt with several completions, or
worked examples and instructions that come before every problem."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from opsd.lm.diffusion import masked_diffusion
from opsd.lm.forward import (
    causal_lm,
    detached_head,
    evaluating,
    head_of,
    hidden_rows,
    read_on,
    trunk_of,
)
from opsd.lm.layout import PADDED, Ids, Layout, ModelInput, pad_left, pad_right
from opsd.lm.sharding import is_sharded, within_forward
from opsd.objective.head import Head

WORTH = 0.2
"""The minimum share of a pass's tokens that sharing must save. Below it, two passes with a mask
cost about as much as one without."""


class _SharedPrefixLayer:
    """A layer that stores each distinct beginning once. When the rest is processed, each sequence
    gets the keys and values of its own beginning, by `places`. These copies are dropped at once, so
    that without gradients they exist for only one layer at a time."""

    places: Tensor | None = None

    def update(self, *states: Tensor, **kwargs: Any) -> tuple[Tensor, Tensor]:
        layer: Any = super()
        if self.places is None:
            return layer.update(*states, **kwargs)
        self.keys, self.values = (x.index_select(0, self.places) for x in (self.keys, self.values))
        read = layer.update(*states, **kwargs)
        self.keys, self.values = (x.new_empty(0) for x in read)
        return read


class _Whole(_SharedPrefixLayer, DynamicLayer):
    """All positions."""


class _Window(_SharedPrefixLayer, DynamicSlidingWindowLayer):
    """The last positions, within the layer's sliding window."""


def attends(model: nn.Module) -> bool:
    """Whether every layer is causal attention, the only kind that a mask can restrict to a
    sequence's own tokens. A recurrent layer's state runs through all tokens, and a masked diffusion
    model also attends to later ones."""
    if masked_diffusion(model) is not None:
        return False
    layers = DynamicCache(config=causal_lm(model).config).layers
    return all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)


class Split(NamedTuple):
    """Sequences cut in two: the distinct beginnings, the index of each sequence's beginning, and
    the rest of each sequence up to its last needed position."""

    beginnings: list[Ids]
    places: list[int]
    rest: list[ModelInput]

    @property
    def tokens(self) -> int:
        """The number of tokens processed, padding included."""
        rest = [len(x.ids) for x in self.rest]
        return PADDED.tokens([*map(len, self.beginnings)]) + PADDED.tokens(rest)


def split(inputs: Sequence[ModelInput]) -> Split:
    """Cut sequences either each at its first needed position, or all after their common beginning,
    whichever leaves fewer tokens. Every sequence must have a needed position."""
    firsts = [x.read[0] for x in inputs]
    common = min(common_length([x.ids for x in inputs]), *firsts)
    return min(
        _cut(inputs, firsts), _cut(inputs, [common] * len(inputs)), key=lambda parts: parts.tokens
    )


def common_length(sequences: Sequence[Ids]) -> int:
    """The number of tokens that all sequences have in common at the beginning."""
    least, most = min(sequences), max(sequences)  # the common prefix of these two is common to all
    pairs = enumerate(zip(least, most, strict=False))
    return next((i for i, (one, other) in pairs if one != other), min(len(least), len(most)))


def _cut(inputs: Sequence[ModelInput], places: Sequence[int]) -> Split:
    own = [x.ids[:place] for x, place in zip(inputs, places, strict=True)]
    numbers = {beginning: i for i, beginning in enumerate(dict.fromkeys(own))}
    rest = [
        ModelInput(x.ids[place : x.read[-1] + 1], [at - place for at in x.read])
        for x, place in zip(inputs, places, strict=True)
    ]
    return Split(list(numbers), [numbers[beginning] for beginning in own], rest)


def worth_sharing(inputs: Sequence[ModelInput], layout: Layout) -> bool:
    """Whether processing each distinct beginning once saves enough tokens."""
    whole, parts = layout.tokens([len(x.ids) for x in inputs]), split(inputs)
    return all(parts.beginnings) and whole - parts.tokens >= WORTH * whole


class SharedReading:
    """Processes sequences in two forward passes of a trunk: `begin` the distinct beginnings,
    `go_on` the rest."""

    def __init__(self, model: nn.Module, inputs: Sequence[ModelInput], pad_id: int) -> None:
        parts, device = split(inputs), next(model.parameters()).device
        self.places_B = torch.tensor(parts.places, device=device)
        self.ids_UP, self.mask_UP = (x.to(device) for x in pad_left(parts.beginnings, pad_id))
        self.rest = pad_right(parts.rest, pad_id).to(device)
        self.cache = DynamicCache(config=causal_lm(model).config)
        self.cache.layers = [_fanned(layer) for layer in self.cache.layers]

    def begin(self, model: nn.Module) -> None:
        read_on(trunk_of(model), self.ids_UP, self.mask_UP, self.cache)
        for layer in self.cache.layers:
            layer.places = self.places_B  # type: ignore[attr-defined]

    def go_on(self, model: nn.Module) -> Tensor:
        """The last hidden states `[N, D]` at the needed positions."""
        # The rest's padding comes after it, so no needed position attends to it.
        own = torch.ones_like(self.rest.ids_BL)
        mask_BW = torch.cat([self.mask_UP.index_select(0, self.places_B), own], dim=-1)
        hidden_BLD = read_on(trunk_of(model), self.rest.ids_BL, mask_BW, self.cache)
        return hidden_BLD.flatten(0, 1).index_select(0, self.rest.rows_N)


@torch.no_grad()
def score_shared(
    model: nn.Module, inputs: Sequence[ModelInput], pad_id: int, vocab: int
) -> tuple[Tensor, Head]:
    """The result of `score` for sequences that are `worth_sharing`, in two forward passes."""
    reading = SharedReading(model, inputs, pad_id)
    read: list[tuple[Tensor, Head]] = []
    with evaluating(model):
        within_forward(model, reading.begin)
        within_forward(model, lambda m: read.append((reading.go_on(m), head_of(m, vocab))))
    ((hidden_ND, head),) = read
    return hidden_ND, detached_head(head, model)


def trained_rows(
    model: nn.Module, inputs: Sequence[ModelInput], pad_id: int, layout: Layout
) -> Tensor:
    """The last hidden states `[N, D]` at the needed positions, with gradient: a beginning's
    gradient is the sum over the sequences that share it. Beginnings are not shared under gradient
    checkpointing, which keeps no activations, and not in sharded models, whose weights are gathered
    once per pass."""
    recomputes = model.training and getattr(causal_lm(model), "is_gradient_checkpointing", False)
    alone = recomputes or is_sharded(model) or not attends(model)
    if alone or not worth_sharing(inputs, layout):
        return hidden_rows(model, layout.collate(inputs, pad_id))
    reading = SharedReading(model, inputs, pad_id)
    reading.begin(model)
    return reading.go_on(model)


def _fanned(layer: Any) -> Any:
    return _Window(layer.sliding_window) if layer.is_sliding else _Whole()
