"""A step's taught tokens without gradient: what credits and weightings may look at."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class TokenTable:
    """One row per token [N]; per-rollout columns [R] are read through `rollout` (row -> rollout).

    `statistics` are what a term saw while its rows were in memory: `logp_student`, `logp_target`
    and `logp_<view>` at the sampled token, `entropy_student`, `entropy_teacher`, `divergence`,
    `clipped`. Log-probabilities and divergences in nats. `scales` are the weights [R] that a
    context gives its views, by name.
    """

    rollout: Tensor
    position: Tensor
    logp_sampler: Tensor
    reward_R: Tensor
    group_R: Tensor
    reward_mean_R: Tensor
    reward_std_R: Tensor
    pass_rate_R: Tensor
    statistics: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    scales: dict[str, Tensor] = field(default_factory=dict[str, Tensor])

    def column(self, name: str) -> Tensor:
        """A statistic [N]. Raises ValueError where the term does not provide it."""
        if name not in self.statistics:
            have = ", ".join(sorted(self.statistics))
            raise ValueError(f"this term records no '{name}' (it records: {have})")
        return self.statistics[name]

    def mean_R(self, values: Tensor) -> Tensor:
        """The mean [R] of values [N] over each rollout's tokens; 0 for one without tokens."""
        sums = values.new_zeros(len(self.reward_R)).index_add_(0, self.rollout, values)
        return sums / torch.bincount(self.rollout, minlength=len(sums)).clamp(min=1)

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest rollout."""
        return int(self.length.max()) if len(self.length) else 0

    @cached_property
    def length(self) -> Tensor:
        """Tokens of each row's rollout [N]."""
        counts = torch.bincount(self.rollout, minlength=self.reward_R.shape[0])
        return counts[self.rollout]
