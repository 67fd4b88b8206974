"""Autoregressive decoding with a KV cache, for a batch that rows can enter and leave at any step.

The model reads a prompt that several rows share once, and likewise the common prefix of all
prompts. A finished row leaves at once and makes room for the next prompt, so that no step waits for
the longest completion of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from opsd.lm.forward import read_on
from opsd.lm.layout import Ids, pad_left
from opsd.lm.shared_prefix import WORTH, common_length


class PreallocatedLayer(DynamicLayer):
    """A layer's keys and values in buffers with room to grow: a new position is written in place,
    whereas concatenation would copy all the others at every step."""

    room: list[Tensor] | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        before, after = self.get_seq_length(), self.get_seq_length() + key_states.shape[-2]
        if not before:
            return super().update(key_states, value_states)
        if self.room is None or after > self.room[0].shape[-2]:
            self.room = [_with_room(x, after) for x in (self.keys, self.values)]  # type: ignore
        for buffer, new in zip(self.room, (key_states, value_states), strict=True):
            buffer[:, :, before:after] = new
        self.keys, self.values = (buffer[:, :, :after] for buffer in self.room)
        return self.keys, self.values

    def change(self, *changed: Tensor) -> None:
        """Replace the keys and values."""
        self.keys, self.values = changed
        self.room = None

    def shrink(self, moves: tuple[Tensor, Tensor], rows: int, left: int) -> None:
        """Copy rows to other places (`moves`: the new places, the old places), then keep only the
        first `rows`, without the `left` first positions."""
        new, old = moves
        held = self.room or [self.keys, self.values]  # type: ignore[list-item]
        for buffer in held:
            buffer[new] = buffer[old]
        narrow = [buffer[:rows, :, left:] for buffer in held]
        if self.room is None:
            self.keys, self.values = narrow
        else:
            self.room, width = narrow, self.get_seq_length() - left
            self.keys, self.values = (buffer[:, :, :width] for buffer in narrow)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self.change(self.keys[beam_idx], self.values[beam_idx])  # type: ignore[index]


def _with_room(held: Tensor, positions: int) -> Tensor:
    """The same [B, H, W, K] at the start of a buffer with room for about half as many positions
    more."""
    buffer = held.new_empty(*held.shape[:2], positions + max(64, positions // 2), held.shape[3])
    buffer[:, :, : held.shape[2]] = held
    return buffer


def _keeps_all(cache: Any) -> bool:
    """Whether every layer keeps all positions. Sliding windows and recurrent states do not."""
    return all(isinstance(layer, PreallocatedLayer) for layer in cache.layers)


def _worth_reading_once(prompts: Sequence[Ids]) -> int:
    """The length of the prompts' common prefix if reading it once saves enough, else 0."""
    longest, shortest = (f(map(len, prompts)) for f in (max, min))
    common = min(common_length(prompts), shortest - 1)
    saved = (len(prompts) - 1) * common
    return common if saved >= WORTH * len(prompts) * longest else 0


@dataclass
class ActiveBatch:
    """Unfinished rows, identified by `numbers`. `hidden_BD` predicts each row's next token;
    `mask_BW` marks the row's own positions in the cache."""

    numbers: list[int]
    hidden_BD: Tensor
    mask_BW: Tensor
    cache: Any

    @property
    def width(self) -> int:
        """The number of positions in the cache."""
        return self.mask_BW.shape[1]

    @property
    def joinable(self) -> bool:
        """Whether two caches can be joined."""
        return _keeps_all(self.cache)

    def keep(self, places: Sequence[int]) -> None:
        """Keep only the rows at these places, and trim the cache to the longest of them. The last
        rows fill the gaps, so that the other rows' keys and values are not copied."""
        rows, kept = len(places), set(places)
        gaps = [i for i in range(rows) if i not in kept]
        movers = [i for i in places if i >= rows]
        moved = dict(zip(gaps, movers, strict=True))
        order = [moved.get(i, i) for i in range(rows)]
        device = self.hidden_BD.device
        which, new, old = (torch.tensor(x, device=device).long() for x in (order, gaps, movers))
        self.numbers = [self.numbers[i] for i in order]
        self.hidden_BD, self.mask_BW = self.hidden_BD[which], self.mask_BW[which]
        if not self.joinable:
            self.cache.reorder_cache(which)
            return
        left = int(self.mask_BW.amax(0).argmax())
        self.mask_BW = self.mask_BW[:, left:]
        for layer in self.cache.layers:
            layer.shrink((new, old), rows, left)

    def join(self, other: ActiveBatch) -> None:
        """Add the other batch's rows."""
        self._widen(max(0, other.width - self.width))
        other._widen(self.width - other.width)
        self.numbers += other.numbers
        self.hidden_BD = torch.cat([self.hidden_BD, other.hidden_BD])
        self.mask_BW = torch.cat([self.mask_BW, other.mask_BW])
        for mine, theirs in zip(self.cache.layers, other.cache.layers, strict=True):
            keys, values = [mine.keys, theirs.keys], [mine.values, theirs.values]
            mine.change(torch.cat(keys), torch.cat(values))

    def _widen(self, columns: int) -> None:
        """Add this many columns of padding on the left."""
        if columns:
            self.mask_BW = pad(self.mask_BW, (columns, 0))
            for layer in self.cache.layers:
                layer.change(*(pad(x, (0, 0, columns, 0)) for x in (layer.keys, layer.values)))


@dataclass(frozen=True)
class Reader:
    """Runs a model's trunk token by token."""

    trunk: Callable[..., Any]
    config: Any
    device: torch.device
    pad_id: int

    def begin(self, numbers: Sequence[int], prompts: Sequence[Ids]) -> ActiveBatch:
        """Process prompts: each distinct one once, and their common prefix once if that is worth a
        separate pass."""
        places = {prompt: i for i, prompt in enumerate(dict.fromkeys(map(tuple, prompts)))}
        distinct = list(places)
        cache = DynamicCache(config=self.config)
        cache.layers = [PreallocatedLayer() if type(x) is DynamicLayer else x for x in cache.layers]
        common = _worth_reading_once(distinct) if _keeps_all(cache) else 0
        before_UC = torch.ones(len(distinct), common, dtype=torch.long, device=self.device)
        if common:
            ids_1C = torch.tensor([distinct[0][:common]], device=self.device)
            self._read(ids_1C, before_UC[:1], cache)
            cache.reorder_cache(torch.zeros(len(distinct), dtype=torch.long, device=self.device))
        rest = [prompt[common:] for prompt in distinct]
        ids_UP, mask_UP = (x.to(self.device) for x in pad_left(rest, self.pad_id))
        mask_UW = torch.cat([before_UC, mask_UP], dim=-1)
        hidden_UD = self._read(ids_UP, mask_UW, cache)
        if len(places) < len(prompts):
            which = torch.tensor([places[tuple(x)] for x in prompts], device=self.device)
            cache.reorder_cache(which)
            hidden_UD, mask_UW = hidden_UD[which], mask_UW[which]
        return ActiveBatch(list(numbers), hidden_UD, mask_UW, cache)

    def step(self, live: ActiveBatch, tokens: Sequence[int]) -> None:
        """Process each row's new token."""
        ids_B1 = torch.tensor(tokens, device=self.device).unsqueeze(-1)
        live.mask_BW = pad(live.mask_BW, (0, 1), value=1)
        live.hidden_BD = self._read(ids_B1, live.mask_BW, live.cache)

    def _read(self, ids_BL: Tensor, mask_BW: Tensor, cache: DynamicCache) -> Tensor:
        return read_on(self.trunk, ids_BL, mask_BW, cache)[:, -1]


def decode(
    reader: Reader,
    prompts: Sequence[Ids],
    admit: Callable[[ActiveBatch | None], list[int]],
    write: Callable[[Tensor, Sequence[int]], list[int | None]],
) -> None:
    """Generate completions of all prompts. `admit` takes the live rows and returns the prompts to
    start now. `write` takes the last hidden states [B, D] and the prompts' numbers, and returns
    each row's next token, None if the row has ended."""
    live: ActiveBatch | None = None
    while fresh := admit(live) or live is not None:
        if fresh is not True:
            begun = reader.begin(fresh, [prompts[i] for i in fresh])
            if live is None:
                live = begun
            else:
                live.join(begun)
        written = write(live.hidden_BD, live.numbers)
        tokens = {n: x for n, x in zip(live.numbers, written, strict=True) if x is not None}
        if not tokens:
            live = None
            continue
        if len(tokens) < len(written):
            live.keep([i for i, token in enumerate(written) if token is not None])
        reader.step(live, [tokens[number] for number in live.numbers])
