"""Credits: how much better than expected each token was. TokenTable -> advantage [N]; and the
surrogate losses that turn log-probabilities and advantages into something to descend on."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from opsd.objective.table import TokenTable, of_view
from opsd.parts import part
from opsd.schedule import Share


@part
class GroupNormalised:
    """A rollout's reward against its group: (r - mean) / (std + 1e-4), the same for every token.

    `scale="none"` leaves the division out. GRPO (Shao et al. 2024, arXiv 2402.03300); without it,
    Dr. GRPO (Liu et al. 2025, arXiv 2503.20783).
    """

    scale: Literal["group", "none"] = "group"
    type: Literal["group_normalised"] = "group_normalised"
    needs_reward: ClassVar[bool] = True

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


@part
class ReturnToGo:
    """The discounted sum of the log-ratios from a token to its rollout's end: sum over s >= t of
    gamma^(s-t) (log target - log student) (beta-OPSD, 2026, arXiv 2607.28582; gamma 0.99).

    With gamma 0 it is `log_ratio`.
    """

    gamma: Share = 0.99
    type: Literal["return_to_go"] = "return_to_go"

    def __call__(self, table: TokenTable) -> Tensor:
        ratio = LogRatio()(table)
        padded = ratio.new_zeros(len(table.reward_R), table.longest)
        padded[table.rollout, table.position] = ratio
        for t in range(padded.shape[1] - 2, -1, -1):
            padded[:, t] += self.gamma * padded[:, t + 1]
        return padded[table.rollout, table.position]


@part
class Shaped:
    """A reward's advantage whose size, not whose sign, the teacher decides: A clip((p_target /
    p_student)^sign(A), 1 - eps, 1 + eps) at each sampled token (RLSD, 2026, arXiv 2604.03128)."""

    reward: GroupNormalised = GroupNormalised()
    eps: Annotated[float, Field(ge=0, lt=1)] = 0.2
    type: Literal["shaped"] = "shaped"
    needs_reward: ClassVar[bool] = True

    def __call__(self, table: TokenTable) -> Tensor:
        advantage = self.reward(table)
        ratio = torch.exp(advantage.sign() * LogRatio()(table))
        return advantage * ratio.clamp(1 - self.eps, 1 + self.eps)


@part
class Gated:
    """Every teacher's log-ratio through a gate that outliers and mistaken teachers do not pass
    (SGSD, Huang et al. 2026, arXiv 2605.28791).

    For view k of scale alpha_k and D = log teacher_k - log student at the sampled token, the
    advantage is the sum of alpha_k rho_k g(D), g(D) = D / (tau (1 + exp(D^2 / 2 tau))): the
    gradient of the paper's loss log 2 - log(1 + exp(-D^2 / 2 tau)). rho_k is the verifier's view of
    the teacher: +1 where its mean D over the rollout, clamped to `bound` and markup left out,
    favours a correct rollout or disfavours a wrong one, -1 where it is the other way round, 0
    within `dead_zone`.
    """

    tau: Annotated[float, Field(gt=0)] = 1.0
    bound: Annotated[float, Field(gt=0)] = 3.0
    dead_zone: Annotated[float, Field(ge=0)] = 0.05
    type: Literal["gated"] = "gated"
    needs_reward: ClassVar[bool] = True

    def __call__(self, table: TokenTable) -> Tensor:
        total = torch.zeros_like(table.logp_sampler)
        for vote in self.votes(table).values():
            total += vote
        return total

    def votes(self, table: TokenTable) -> dict[str, Tensor]:
        """What every view adds to the advantage [N], by its name."""
        outcome_R = torch.where(table.reward_R > 0, 1.0, -1.0)
        votes: dict[str, Tensor] = {}
        for name, scale_R in table.scales.items():
            gap = table.column(of_view(name)) - table.column("logp_student")
            favour_R = table.mean_R(gap.clamp(-self.bound, self.bound), ~table.markup)
            rho_R = outcome_R * favour_R.sign() * (favour_R.abs() > self.dead_zone)
            # exp overflows to infinity where the gate is shut: g is then 0.
            gate = gap / (self.tau * (1 + torch.exp(gap * gap / (2 * self.tau))))
            votes[name] = (scale_R * rho_R)[table.rollout] * gate
        return votes


AnyCredit = Annotated[
    GroupNormalised | LogRatio | ReturnToGo | Shaped | Gated, Field(discriminator="type")
]


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
