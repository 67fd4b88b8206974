"""Prompts that several completions share are read once, and all completions from there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from opsd.lm.diffusion import masked_diffusion
from opsd.lm.forward import causal_lm, detached_head, evaluating, head_of, read_on, trunk_of
from opsd.lm.layout import PADDED, Layout, ModelInput, continued, pad_left, pad_right
from opsd.lm.sharding import within_forward
from opsd.objective.head import Head

WORTH = 0.2
"""The least share of a pass's tokens that reading prompts once must save. Below it, two passes
under a mask cost about what one costs without."""


class _SharedPrefixLayer:
    """A layer whose prompts are held once. When completions are read, each is handed its own
    prompt's keys and values, by `places`; they are forgotten at once, so that copies of prompts are
    there for one layer at a time."""

    places: Tensor | None = None

    def update(self, *states: Tensor, **kwargs: Any) -> tuple[Tensor, Tensor]:
        layer: Any = super()
        if self.places is None:
            return layer.update(*states, **kwargs)
        self.keys, self.values = self.keys[self.places], self.values[self.places]
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


def worth_sharing(inputs: Sequence[ModelInput], layout: Layout) -> bool:
    """Whether enough tokens are saved by reading each distinct prompt once."""
    distinct = {x.prompt for x in inputs}
    whole = layout.tokens([len(x.ids) for x in inputs])
    rest = PADDED.tokens([len(x.read) for x in inputs])
    return whole - PADDED.tokens([*map(len, distinct)]) - rest >= WORTH * whole


@torch.no_grad()
def score_shared(
    model: nn.Module, inputs: Sequence[ModelInput], pad_id: int, vocab: int
) -> tuple[Tensor, Head]:
    """What `score` gives of prompts and completions, in two forward passes: distinct prompts, then
    the completions, none of which may be empty."""
    device = next(model.parameters()).device
    prompts, completions = [x.prompt for x in inputs], [x.completion for x in inputs]
    numbers = {prompt: i for i, prompt in enumerate(dict.fromkeys(prompts))}
    places = torch.tensor([numbers[prompt] for prompt in prompts], device=device)
    ids_UP, mask_UP = (x.to(device) for x in pad_left(list(numbers), pad_id))
    rest = pad_right([continued(c[:1], c[1:]) for c in completions], pad_id).to(device)
    cache = DynamicCache(config=causal_lm(model).config)
    cache.layers = [_fanned(layer) for layer in cache.layers]
    read: list[Tensor] = []
    heads: list[Head] = []

    def begin(model: nn.Module) -> None:
        read.append(read_on(trunk_of(model), ids_UP, mask_UP, cache)[:, -1])

    def go_on(model: nn.Module) -> None:
        # What pads a completion comes after it, and is seen by nothing that is read.
        mask_BL = torch.cat([mask_UP[places], torch.ones_like(rest.ids_BL)], dim=-1)
        hidden_BLD = read_on(trunk_of(model), rest.ids_BL, mask_BL, cache)
        read.append(hidden_BLD.flatten(0, 1).index_select(0, rest.rows_N))
        heads.append(head_of(model, vocab))

    with evaluating(model):
        within_forward(model, begin)
        for layer in cache.layers:
            layer.places = places
        within_forward(model, go_on)
    first_UD, later_ND = read
    later = later_ND.split([len(completion) - 1 for completion in completions])
    pairs = zip(first_UD[places].split(1), later, strict=True)
    return torch.cat([rows for pair in pairs for rows in pair]), detached_head(heads[0], model)


def _fanned(layer: Any) -> Any:
    return _Window(layer.sliding_window) if layer.is_sliding else _Whole()
