"""What several sequences begin with is read once, and all of them from there: a prompt that has
several completions, or worked examples and instructions that stand before every problem."""

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
"""The least share of a pass's tokens that reading beginnings once must save. Below it, two passes
under a mask cost about what one costs without."""


class _SharedPrefixLayer:
    """A layer whose beginnings are held once. When the rest is read, each sequence is handed the
    keys and values of its own, by `places`; they are forgotten at once, so that without gradient
    copies are there for one layer at a time."""

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
    """The last positions, as many as the layer sees."""


def attends(model: nn.Module) -> bool:
    """Whether every layer is attention to the tokens before one, which alone can be told which of
    them are its own. A recurrent layer's state runs through all of them, and a masked diffusion
    model sees what comes after."""
    if masked_diffusion(model) is not None:
        return False
    layers = DynamicCache(config=causal_lm(model).config).layers
    return all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)


class Split(NamedTuple):
    """Sequences cut in two: the distinct beginnings, which of them each sequence has, and what
    comes after it up to where it is read last."""

    beginnings: list[Ids]
    places: list[int]
    rest: list[ModelInput]

    @property
    def tokens(self) -> int:
        """How many are read, padding included."""
        rest = [len(x.ids) for x in self.rest]
        return PADDED.tokens([*map(len, self.beginnings)]) + PADDED.tokens(rest)


def split(inputs: Sequence[ModelInput]) -> Split:
    """Sequences cut where each one is first read, or all behind what they have in common there,
    whichever leaves fewer tokens. None of them may be read nowhere."""
    firsts = [x.read[0] for x in inputs]
    common = min(common_length([x.ids for x in inputs]), *firsts)
    return min(
        _cut(inputs, firsts), _cut(inputs, [common] * len(inputs)), key=lambda parts: parts.tokens
    )


def common_length(sequences: Sequence[Ids]) -> int:
    """How many tokens all of them begin with."""
    least, most = min(sequences), max(sequences)  # what these two share, all share
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
    """Whether enough tokens are saved by reading each distinct beginning once."""
    whole, parts = layout.tokens([len(x.ids) for x in inputs]), split(inputs)
    return all(parts.beginnings) and whole - parts.tokens >= WORTH * whole


class SharedReading:
    """Reads sequences in two forward passes of a trunk: `begin` the distinct beginnings, `go_on`
    the rest."""

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
        """Last hidden states `[N, D]` at the positions that are read."""
        # What pads the rest comes after it, and is seen by nothing that is read.
        own = torch.ones_like(self.rest.ids_BL)
        mask_BW = torch.cat([self.mask_UP.index_select(0, self.places_B), own], dim=-1)
        hidden_BLD = read_on(trunk_of(model), self.rest.ids_BL, mask_BW, self.cache)
        return hidden_BLD.flatten(0, 1).index_select(0, self.rest.rows_N)


@torch.no_grad()
def score_shared(
    model: nn.Module, inputs: Sequence[ModelInput], pad_id: int, vocab: int
) -> tuple[Tensor, Head]:
    """What `score` gives of sequences that are `worth_sharing`, in two forward passes."""
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
    """Last hidden states `[N, D]` at the positions that are read, with their gradient: one
    beginning's is the sum over the sequences that share it. Where activations are recomputed
    (checkpointing), nothing is kept that could be shared, and sharded weights are gathered once."""
    recomputes = model.training and getattr(causal_lm(model), "is_gradient_checkpointing", False)
    alone = recomputes or is_sharded(model) or not attends(model)
    if alone or not worth_sharing(inputs, layout):
        return hidden_rows(model, layout.collate(inputs, pad_id))
    reading = SharedReading(model, inputs, pad_id)
    reading.begin(model)
    return reading.go_on(model)


def _fanned(layer: Any) -> Any:
    return _Window(layer.sliding_window) if layer.is_sliding else _Whole()
