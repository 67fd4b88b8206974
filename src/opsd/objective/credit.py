"""Credits, which give each token an advantage (TokenTable -> advantage [N]), and the surrogate
losses that turn log-probabilities and advantages into a loss."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor

from opsd.objective.table import TokenTable
from opsd.objective.weighting import TopTokens
from opsd.parts import Slot, part, parts_of
from opsd.schedule import Share


class Credit(Protocol):
    """TokenTable -> advantage [N], without gradient. To log values, pass them to `table.log`. A
    custom credit inherits the defaults of all attributes that it does not define."""

    needs_reward: bool = False
    """Whether it reads rewards or pass rates: every rollout then needs a verdict."""
    compares_rewards: bool = False
    """Whether it compares a rollout's reward with those of its group."""
    reads_views: bool = False
    """Whether it reads the views' own log-probabilities (`table.view(name)`) rather than those of
    one target that combines them."""

    def __call__(self, table: TokenTable) -> Tensor: ...


class Surrogate(Protocol):
    """logp [N], logp_sampler [N], advantage [N] -> loss [N], differentiable with respect to the
    first."""

    def __call__(self, logp: Tensor, logp_sampler: Tensor, advantage: Tensor) -> Tensor: ...


@part
class GroupNormalised(Credit):
    """A rollout's reward relative to its group: (r - mean) / (std + 1e-4), the same for every
    token.

    `scale="none"` omits the division. GRPO (Shao et al. 2024, arXiv 2402.03300); without it, Dr.
    GRPO (Liu et al. 2025, arXiv 2503.20783).
    """

    scale: Literal["group", "none"] = "group"
    type: Literal["group_normalised"] = "group_normalised"
    compares_rewards: ClassVar[bool] = True
    needs_reward: ClassVar[bool] = True

    def __call__(self, table: TokenTable) -> Tensor:
        advantage_R = table.reward_R - table.reward_mean_R
        if self.scale == "group":
            advantage_R = advantage_R / (table.reward_std_R + 1e-4)
        return advantage_R[table.rollout]


@part
class LogRatio(Credit):
    """log target - log student at the sampled token: an unbiased estimate of minus the gradient
    direction of the reverse KL (OPSD v3, Eq. 8)."""

    type: Literal["log_ratio"] = "log_ratio"

    def __call__(self, table: TokenTable) -> Tensor:
        return table.column("logp_target") - table.column("logp_student")


@part
class ReturnToGo(Credit):
    """The discounted sum of the log-ratios from a token to its rollout's end: sum over s >= t of
    gamma^(s-t) (log target - log student) (beta-OPSD, 2026, arXiv 2607.28582; gamma 0.99).

    With gamma 0 it is `log_ratio`.
    """

    gamma: Share = 0.99
    type: Literal["return_to_go"] = "return_to_go"

    def __call__(self, table: TokenTable) -> Tensor:
        ratio = LogRatio()(table)
        padded = ratio.new_zeros(len(table.reward_R), table.longest)
        padded[table.rollout, table.place] = ratio
        for t in range(padded.shape[1] - 2, -1, -1):
            padded[:, t] += self.gamma * padded[:, t + 1]
        return padded[table.rollout, table.place]


@part
class Shaped(Credit):
    """A reward's advantage A, rescaled by the teacher, which does not change its sign: A
    clip((p_target / p_student)^sign(A), 1 - eps, 1 + eps) at each sampled token (RLSD, 2026, arXiv
    2604.03128)."""

    reward: GroupNormalised = GroupNormalised()
    eps: Annotated[float, Field(ge=0, lt=1)] = 0.2
    type: Literal["shaped"] = "shaped"
    needs_reward: ClassVar[bool] = True

    def __call__(self, table: TokenTable) -> Tensor:
        advantage = self.reward(table)
        ratio = torch.exp(advantage.sign() * LogRatio()(table))
        return advantage * ratio.clamp(1 - self.eps, 1 + self.eps)


@part
class Gated(Credit):
    """Every teacher's log-ratio, through a gate that suppresses outliers, with a sign that depends
    on whether the teacher agrees with the verifier (SGSD, Huang et al. 2026, arXiv 2605.28791).

    For view k with scale alpha_k, and D = log teacher_k - log student at the sampled token, the
    advantage is the sum of alpha_k rho_k g(D), where g(D) = D / (tau (1 + exp(D^2 / 2 tau))) is the
    gradient of the paper's loss log 2 - log(1 + exp(-D^2 / 2 tau)). rho_k says whether the teacher
    agrees with the verifier: +1 if the mean D over the rollout, clamped to `bound` and without
    special tokens, favours a correct rollout or disfavours a wrong one; -1 in the opposite case; 0
    within `dead_zone`.
    """

    tau: Annotated[float, Field(gt=0)] = 1.0
    bound: Annotated[float, Field(gt=0)] = 3.0
    dead_zone: Annotated[float, Field(ge=0)] = 0.05
    type: Literal["gated"] = "gated"
    needs_reward: ClassVar[bool] = True
    reads_views: ClassVar[bool] = True

    def __call__(self, table: TokenTable) -> Tensor:
        total = torch.zeros_like(table.logp_sampler)
        outcome_R = torch.where(table.reward_R > 0, 1.0, -1.0)
        for name, scale_R in table.scales.items():
            gap = table.view(name) - table.column("logp_student")
            favour_R = table.mean_R(gap.clamp(-self.bound, self.bound), ~table.special)
            rho_R = outcome_R * favour_R.sign() * (favour_R.abs() > self.dead_zone)
            # exp overflows to infinity for a closed gate: g is then 0.
            gate = gap / (self.tau * (1 + torch.exp(gap * gap / (2 * self.tau))))
            vote = (scale_R * rho_R)[table.rollout] * gate
            table.log(f"vote/{name}", vote)
            total += vote
        return total


@part
class Contrast(Credit):
    """A reward's advantage A, shifted by how much likelier the token is under a correct hint than
    under wrong hints: A + weight tanh(e / tau), clamped at 0 (RLCSD, 2026, arXiv 2606.11709).

    e = log p(token | right) - log sum over the other views k of s_k p(token | k), in nats, where
    s_k are their scales. All hints have the same form, so that their common effect on the style
    cancels. Shifts of at most `least` are ignored, and the advantage never changes its sign.
    """

    reward: GroupNormalised = GroupNormalised()
    tau: Annotated[float, Field(gt=0)] = 0.02
    weight: Annotated[float, Field(ge=0)] = 0.5
    least: Annotated[float, Field(ge=0)] = 0.02
    right: str = "right"
    type: Literal["contrast"] = "contrast"
    needs_reward: ClassVar[bool] = True
    reads_views: ClassVar[bool] = True

    def __call__(self, table: TokenTable) -> Tensor:
        advantage = self.reward(table)
        wrong = [
            table.view(name) + scale_R.log()[table.rollout]
            for name, scale_R in table.scales.items()
            if name != self.right
        ]
        evidence = table.view(self.right) - torch.stack(wrong).logsumexp(0)
        table.log("contrast", evidence)
        shift = self.weight * torch.tanh(evidence / self.tau)
        moved = advantage + shift * (shift.abs() > self.least)
        return torch.where(advantage > 0, moved.clamp(min=0), moved.clamp(max=0)) * (advantage != 0)


@part
class EntropyAdaptive(Credit):
    """A negative advantage for the tokens that the student found least likely. It grows linearly
    with the student's entropy, from `weakest` at the lowest entropy among them to `strongest` at
    the highest (`strongest` if all are equal). Other tokens get 0 (OPSA, Ding and Zhang 2026, arXiv
    2608.31046; a fifth of the tokens, -0.5 to -1).

    `tokens` selects them in every rollout, and weights them as `top_tokens` does, so that a mean
    over all tokens is a mean over the selected ones.
    """

    tokens: TopTokens = TopTokens(0.2, by="surprisal_student")
    weakest: Annotated[float, Field(le=0)] = -0.5
    strongest: Annotated[float, Field(le=0)] = -1.0
    type: Literal["entropy_adaptive"] = "entropy_adaptive"

    def __call__(self, table: TokenTable) -> Tensor:
        weight, entropy = self.tokens(table), table.column("entropy_student")
        chosen, zeros_R = weight > 0, torch.zeros_like(table.reward_R)
        rollout, among = table.rollout[chosen], entropy[chosen]
        least_R = zeros_R.scatter_reduce(0, rollout, among, "amin", include_self=False)
        most_R = zeros_R.scatter_reduce(0, rollout, among, "amax", include_self=False)
        span = (most_R - least_R)[table.rollout]
        rank = torch.where(span > 0, (entropy - least_R[table.rollout]) / span, 1.0)
        return weight * torch.where(
            chosen, self.weakest + (self.strongest - self.weakest) * rank, 0.0
        )


@part
class NegativeGate(Credit):
    """-max(0, p(token | negative) - p(token | reference)): penalises tokens that the negative view
    finds likelier than the same model without its instruction. Tokens that both find equally
    likely, such as grammatical ones, are not affected (NSD, Pei et al. 2026, arXiv 2609.11699)."""

    negative: str = "careless"
    reference: str = "own_prompt"
    type: Literal["negative_gate"] = "negative_gate"
    reads_views: ClassVar[bool] = True

    def __call__(self, table: TokenTable) -> Tensor:
        likelier = table.view(self.negative).exp() - table.view(self.reference).exp()
        gate = likelier.clamp(min=0)
        table.log("gate", gate)
        return -gate


AnyCredit = Annotated[
    Credit,
    Slot(
        "credit",
        Credit,
        (
            GroupNormalised,
            LogRatio,
            ReturnToGo,
            Shaped,
            Gated,
            Contrast,
            EntropyAdaptive,
            NegativeGate,
        ),
    ),
]


def compares_rewards(signal: Any) -> bool:
    """Whether any part of a signal compares a rollout's reward with those of its group."""
    return any(getattr(x, "compares_rewards", False) for x in parts_of(signal))


@part
class PolicyGradient(Surrogate):
    """-A log p: no ratio, no clip. For rollouts that are used once."""

    type: Literal["policy_gradient"] = "policy_gradient"

    def __call__(self, logp: Tensor, logp_sampler: Tensor, advantage: Tensor) -> Tensor:
        return -advantage * logp


@part
class Clipped(Surrogate):
    """-min(r A, clip(r, 1 - low, 1 + high) A) with r = p / p_sampler (PPO, GRPO)."""

    low: Annotated[float, Field(gt=0, lt=1)] = 0.2
    high: Annotated[float, Field(gt=0)] = 0.2
    type: Literal["clipped"] = "clipped"

    def __call__(self, logp: Tensor, logp_sampler: Tensor, advantage: Tensor) -> Tensor:
        ratio = torch.exp(logp - logp_sampler)
        bounded = ratio.clamp(1 - self.low, 1 + self.high)
        return -torch.minimum(ratio * advantage, bounded * advantage)


@part
class BoundedUnlikelihood(Surrogate):
    """-A / (2 - p): the unlikelihood -log(1 - p) of a token through a sigmoid. It stays between 1/2
    and 1, so that likely tokens cannot make the gradient explode. For advantages that are not
    positive (NSD, Pei et al. 2026, arXiv 2609.11699)."""

    type: Literal["bounded_unlikelihood"] = "bounded_unlikelihood"

    def __call__(self, logp: Tensor, logp_sampler: Tensor, advantage: Tensor) -> Tensor:
        return -advantage / (2 - logp.exp())


AnySurrogate = Annotated[
    Surrogate, Slot("surrogate", Surrogate, (PolicyGradient, Clipped, BoundedUnlikelihood))
]
