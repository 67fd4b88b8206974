"""Weights of tokens, without gradient: TokenTable -> weight [N].

`scope` says what a weight depends on: the token alone, its rollout, or the batch. `mask`, over
positions, says which tokens take part at all; only those are counted in a denominator.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from opsd.objective.table import TokenTable
from opsd.parts import part

Scope = Literal["token", "rollout", "batch"]


@part
class SkipFirst:
    """Leaves the first `n` tokens of every completion out of the loss and out of its count."""

    n: Annotated[int, Field(ge=0)]
    type: Literal["skip_first"] = "skip_first"
    scope: ClassVar[Scope] = "token"

    def mask(self, position: Tensor) -> Tensor:
        return position >= self.n

    def __call__(self, table: TokenTable) -> Tensor:
        return torch.ones_like(table.logp_sampler)


@part
class ClipTokens:
    """Scales a token's loss so that its divergence counts at most `cap` nats; the value stays
    non-negative, unlike with `clip_summands`."""

    cap: Annotated[float, Field(gt=0)]
    type: Literal["clip_tokens"] = "clip_tokens"
    scope: ClassVar[Scope] = "token"

    def mask(self, position: Tensor) -> Tensor:
        return torch.ones_like(position, dtype=torch.bool)

    def __call__(self, table: TokenTable) -> Tensor:
        return self.cap / table.column("divergence").clamp(min=self.cap)


@part
class ClipImportance:
    """min(p_student / p_sampler, cap): corrects for rollouts that an older policy sampled (SDPO,
    2026, arXiv 2601.20802; cap 2)."""

    cap: Annotated[float, Field(gt=0)] = 2.0
    type: Literal["clip_importance"] = "clip_importance"
    scope: ClassVar[Scope] = "token"

    def mask(self, position: Tensor) -> Tensor:
        return torch.ones_like(position, dtype=torch.bool)

    def __call__(self, table: TokenTable) -> Tensor:
        return torch.exp(table.column("logp_student") - table.logp_sampler).clamp(max=self.cap)


AnyWeighting = Annotated[SkipFirst | ClipTokens | ClipImportance, Field(discriminator="type")]
