"""Credits: how much better than expected each token was. TokenTable -> advantage [N]; and the
surrogate losses that turn log-probabilities and advantages into something to descend on."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from opsd.objective.table import TokenTable
from opsd.parts import part


@part
class GroupNormalised:
    """A rollout's reward against its group: (r - mean) / (std + 1e-4), the same for every token.

    `scale="none"` leaves the division out. GRPO (Shao et al. 2024, arXiv 2402.03300); without it,
    Dr. GRPO (Liu et al. 2025, arXiv 2503.20783).
    """

    scale: Literal["group", "none"] = "group"
    type: Literal["group_normalised"] = "group_normalised"

    def __call__(self, table: TokenTable) -> Tensor:
        advantage_R = table.reward_R - table.reward_mean_R
        if self.scale == "group":
            advantage_R = advantage_R / (table.reward_std_R + 1e-4)
        return advantage_R[table.rollout]


@part
class LogRatio:
    """log target - log student at the sampled token: an unbiased estimate of minus the gradient
    direction of the reverse KL (OPSD v3, Eq. 8)."""

    type: Literal["log_ratio"] = "log_ratio"

    def __call__(self, table: TokenTable) -> Tensor:
        return table.column("logp_target") - table.column("logp_student")


AnyCredit = Annotated[GroupNormalised | LogRatio, Field(discriminator="type")]


@part
class PolicyGradient:
    """-A log p: no ratio, no clip. For rollouts that are used once."""

    type: Literal["policy_gradient"] = "policy_gradient"

    def __call__(self, logp: Tensor, logp_sampler: Tensor, advantage: Tensor) -> Tensor:
        return -advantage * logp


@part
class Clipped:
    """-min(r A, clip(r, 1 - low, 1 + high) A) with r = p / p_sampler (PPO, GRPO)."""

    low: Annotated[float, Field(gt=0, lt=1)] = 0.2
    high: Annotated[float, Field(gt=0)] = 0.2
    type: Literal["clipped"] = "clipped"

    def __call__(self, logp: Tensor, logp_sampler: Tensor, advantage: Tensor) -> Tensor:
        ratio = torch.exp(logp - logp_sampler)
        bounded = ratio.clamp(1 - self.low, 1 + self.high)
        return -torch.minimum(ratio * advantage, bounded * advantage)


AnySurrogate = Annotated[PolicyGradient | Clipped, Field(discriminator="type")]
