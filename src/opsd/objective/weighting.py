"""Weightings of tokens, without gradient: TokenTable -> weight [N]."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor

from opsd.objective.table import TokenTable
from opsd.parts import Slot, part


class Weighting(Protocol):
    """TokenTable -> weight [N], without gradient. To log values, pass them to `table.log`. A custom
    weighting inherits the defaults of all attributes that it does not define."""

    needs_reward: bool = False
    """Whether it reads rewards or pass rates: every rollout then needs a verdict."""
    needs_sampling_logprobs: bool = False
    """Whether it reads `logp_sampler`."""
    corrects_sampling: bool = False
    """Whether it assumes that `logp_sampler` is from the distribution that rollouts were sampled
    from."""
    needs_confidence: bool = False
    """Whether it reads `confidence_teacher`."""
    needs_target: str | None = None
    """The type of the target whose diagnostics it reads."""

    def mask(self, position: Tensor, special: Tensor) -> Tensor:
        """Which tokens are included at all [N], by their position and by whether they are special
        tokens. Only these count in the denominator."""
        return torch.ones_like(position, dtype=torch.bool)

    def __call__(self, table: TokenTable) -> Tensor: ...


@part
class SkipFirst(Weighting):
    """Excludes the first `n` tokens of every completion from the loss and from its token count."""

    n: Annotated[int, Field(ge=0)]
    type: Literal["skip_first"] = "skip_first"

    def mask(self, position: Tensor, special: Tensor) -> Tensor:
        return position >= self.n

    def __call__(self, table: TokenTable) -> Tensor:
        return torch.ones_like(table.logp_sampler)


@part
class SkipSpecialTokens(Weighting):
    """Excludes special tokens, thinking tags and bare line breaks from the loss and from its token
    count (SGSD, 2026, arXiv 2605.28791)."""

    type: Literal["skip_special_tokens"] = "skip_special_tokens"

    def mask(self, position: Tensor, special: Tensor) -> Tensor:
        return ~special

    def __call__(self, table: TokenTable) -> Tensor:
        return torch.ones_like(table.logp_sampler)


@part
class ClipTokens(Weighting):
    """Scales a token's loss so that its divergence counts at most `cap` nats; the value stays
    non-negative, unlike with `pointwise_clip`."""

    cap: Annotated[float, Field(gt=0)]
    type: Literal["clip_tokens"] = "clip_tokens"

    def __call__(self, table: TokenTable) -> Tensor:
        return self.cap / table.column("divergence").clamp(min=self.cap)


@part
class ImportanceWeight(Weighting):
    """min(p_student / p_sampler, cap): corrects for rollouts that an older policy sampled (SDPO,
    2026, arXiv 2601.20802; cap 2)."""

    cap: Annotated[float, Field(gt=0)] = 2.0
    type: Literal["importance_weight"] = "importance_weight"
    needs_sampling_logprobs: ClassVar[bool] = True
    corrects_sampling: ClassVar[bool] = True

    def __call__(self, table: TokenTable) -> Tensor:
        return torch.exp(table.column("logp_student") - table.logp_sampler).clamp(max=self.cap)


@part
class PassRate(Weighting):
    """scale p (1 - p), where p is the share of correct rollouts in the group: problems at the
    frontier count most, solved and hopeless ones not at all (PACED, 2026, arXiv 2603.11178; with
    scale 4 our reading of SSOPD's frontier weight, arXiv 2605.17497)."""

    scale: Annotated[float, Field(gt=0)] = 1.0
    type: Literal["pass_rate"] = "pass_rate"
    needs_reward: ClassVar[bool] = True

    def __call__(self, table: TokenTable) -> Tensor:
        return (self.scale * table.pass_rate_R * (1 - table.pass_rate_R))[table.rollout]


@part
class EarlyTokens(Weighting):
    """1 + gamma (1 - s), where s is the share of the rollout's total |log target - log sampler|
    that lies before the token: early tokens count more, up to 1 + gamma (IW-OPD, 2026, arXiv
    2606.22600)."""

    gamma: Annotated[float, Field(ge=0)] = 0.5
    type: Literal["early_tokens"] = "early_tokens"
    needs_sampling_logprobs: ClassVar[bool] = True

    def __call__(self, table: TokenTable) -> Tensor:
        size = (table.column("logp_target") - table.logp_sampler).abs().double()
        total = table.mean_R(size)[table.rollout] * table.length
        # The sum within the rollout: the sums of earlier rollouts are subtracted.
        running = size.cumsum(0) - size
        start = running[(torch.arange(len(size), device=size.device) - table.place)]
        return (1 + self.gamma * (1 - (running - start) / total.clamp(min=1e-12))).float()


@part
class Ramp(Weighting):
    """From `start` at a rollout's first token to `end` at its last, linearly. Rising, it is our
    reading of PW-OPSD (2026, arXiv 2605.21606), which trusts a self-teacher's later tokens more."""

    start: Annotated[float, Field(ge=0)] = 0.5
    end: Annotated[float, Field(ge=0)] = 1.5
    type: Literal["ramp"] = "ramp"

    def __call__(self, table: TokenTable) -> Tensor:
        share = table.place / (table.length - 1).clamp(min=1)
        return self.start + (self.end - self.start) * share


@part
class TopTokens(Weighting):
    """Keeps the `share` of each rollout's tokens, or `count` of them, at which the student's
    entropy is highest, or its divergence from the target (TIP, 2026, arXiv 2604.14084), or the
    surprisal of the token, or the teacher's confidence (the probability of its likeliest entry;
    d-OPSD, 2026, arXiv 2606.18195), as `by` says. The other tokens have weight 0; the kept ones are
    weighted so that a rollout's weights sum to its number of tokens."""

    share: Annotated[float, Field(gt=0, le=1)] = 0.5
    by: Literal["entropy_student", "divergence", "surprisal_student", "confidence_teacher"] = (
        "entropy_student"
    )
    count: Annotated[int, Field(gt=0)] | None = None
    type: Literal["top_tokens"] = "top_tokens"

    @property
    def needs_confidence(self) -> bool:
        return self.by == "confidence_teacher"

    def __call__(self, table: TokenTable) -> Tensor:
        surprisal = self.by == "surprisal_student"
        column = -table.column("logp_student") if surprisal else table.column(self.by)
        padded = column.new_full((len(table.reward_R), table.longest), float("-inf"))
        padded[table.rollout, table.place] = column
        rank = padded.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
        length = table.length
        kept = (self.share * length).ceil() if self.count is None else length.clamp(max=self.count)
        inside = rank[table.rollout, table.place] < kept
        return inside * length / kept


@part
class Contrasted(Weighting):
    """D / (D + tau), where D = KL(right || wrong) between the predictions under a correct and under
    a wrong hint, in nats. Tokens on which the hints agree, for instance because both only change
    the style, count next to nothing (RLCSD's released code, 2026; tau 1). For the target
    `contrastive`, which computes D."""

    tau: Annotated[float, Field(gt=0)] = 1.0
    type: Literal["contrasted"] = "contrasted"
    needs_target: ClassVar[str | None] = "contrastive"

    def __call__(self, table: TokenTable) -> Tensor:
        contrast = table.column("target/contrast").clamp(min=0)
        return contrast / (contrast + self.tau)


AnyWeighting = Annotated[
    Weighting,
    Slot(
        "weighting",
        Weighting,
        (
            SkipFirst,
            SkipSpecialTokens,
            ClipTokens,
            ImportanceWeight,
            PassRate,
            EarlyTokens,
            Ramp,
            TopTokens,
            Contrasted,
        ),
    ),
]
