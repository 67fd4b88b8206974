"""What the student is drawn towards: one distribution made of the teacher's views.

Every target is built on one primitive, `log_pool`, the normalised weighted product of
distributions: log target = sum_i w_i log p_i - log Z.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor

from opsd.parts import part


def log_pool(terms: Sequence[tuple[Tensor, float | Tensor]]) -> Tensor:
    """The logarithmic pool of distributions: log-probabilities `[..., V]`, no gradient.

    `terms` are (log-probabilities or logits `[..., V]`, weight): constants added to a row cancel.
    A weight is a number, or a tensor that broadcasts against `[..., 1]`.
    """
    pooled = sum(logp.detach() * weight for logp, weight in terms)
    return torch.log_softmax(torch.as_tensor(pooled), dim=-1)


class Target(Protocol):
    """views (one `[N, V]` each), student `[N, V]` -> target `[N, V]`, without gradient.

    Rows are logits: constant offsets of a row are immaterial, in and out.
    """

    def __call__(self, views: Sequence[Tensor], student: Tensor) -> Tensor: ...


@part
class Single:
    """The one teacher's own distribution: `log_pool([(view, 1)])`."""

    type: Literal["single"] = "single"

    def __call__(self, views: Sequence[Tensor], student: Tensor) -> Tensor:
        if len(views) != 1:
            raise ValueError(f"the target 'single' takes one view, the context gave {len(views)}")
        return views[0]


AnyTarget = Single
