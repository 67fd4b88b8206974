"""Rows of logits whose vocabulary is divided over the processes of a group (tensor parallel).

Every process holds some consecutive ids of all rows. Whatever the mathematics adds up over the
vocabulary goes through one of these two objects: numbers per row are exchanged, never logits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from opsd.types import UserError


class Across(Protocol):
    """How the parts of a vocabulary make a whole. May overwrite what it is given."""

    def sum(self, part: Tensor) -> Tensor: ...
    def most(self, part: Tensor) -> Tensor: ...
    def pick(self, rows_NV: Tensor, ids_N: Tensor) -> Tensor:
        """This part's share [N, 1] of each row's entry at an id: the entry, or 0."""
        ...

    def widest(self, own: int) -> int:
        """The size of the largest part, given this one's."""
        ...


@dataclass(frozen=True)
class Whole:
    """All of the vocabulary is here."""

    def sum(self, part: Tensor) -> Tensor:
        return part

    def most(self, part: Tensor) -> Tensor:
        return part

    def pick(self, rows_NV: Tensor, ids_N: Tensor) -> Tensor:
        return rows_NV.gather(-1, ids_N.unsqueeze(-1))

    def widest(self, own: int) -> int:
        return own


WHOLE = Whole()


@dataclass(frozen=True)
class Shard:
    """One process's ids: from `start` on; `sizes` are those of every rank of the group."""

    group: Any
    start: int
    sizes: tuple[int, ...]

    @classmethod
    def among(cls, group: Any, own: int) -> Shard:
        """This rank's shard of `own` ids, after those of the ranks before it. Collective."""
        sizes: list[int] = [0] * dist.get_world_size(group)
        dist.all_gather_object(sizes, own, group=group)
        if min(sizes) < 1:
            raise UserError(f"every rank of a divided head needs an id of its own; theirs: {sizes}")
        return cls(group, sum(sizes[: dist.get_rank(group)]), tuple(sizes))

    def sum(self, part: Tensor) -> Tensor:
        return self._reduce(part, dist.ReduceOp.SUM)

    def most(self, part: Tensor) -> Tensor:
        return self._reduce(part, dist.ReduceOp.MAX)

    def pick(self, rows_NV: Tensor, ids_N: Tensor) -> Tensor:
        own = ids_N.unsqueeze(-1) - self.start
        inside = (own >= 0) & (own < rows_NV.shape[-1])
        return rows_NV.gather(-1, own * inside) * inside

    def widest(self, own: int) -> int:
        return max(self.sizes)

    def _reduce(self, part: Tensor, how: Any) -> Tensor:
        part = part.float().contiguous()
        dist.all_reduce(part, how, group=self.group)
        return part


def logsumexp(rows_NV: Tensor, across: Across) -> Tensor:
    """Over the whole vocabulary, [N, 1]."""
    most = across.most(rows_NV.amax(-1, keepdim=True))
    return most + across.sum(torch.exp(rows_NV - most).sum(-1, keepdim=True)).log()
