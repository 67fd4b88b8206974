"""The taught tokens of a step, without gradient, as credits and weightings read them."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor


def of_view(name: str) -> str:
    """The name of the statistic for a view's log-probability of the sampled token. Users name
    views; the slash avoids collisions with fixed statistics."""
    return f"view/{name}"


@dataclass(frozen=True)
class TokenTable:
    """One row per token [N]; per-rollout columns [R] are read through `rollout` (row -> rollout).

    `position` is a token's index in its completion. `statistics` are what a term computed while its
    rows were in memory: `logp_student`, `logp_target` and `of_view(name)` at the sampled token,
    `entropy_student`, `entropy_teacher`, `divergence`, `clipped`, `confidence_teacher` if a
    weighting needs it, and what target and support log, as `target/<name>` and `support/<name>`.
    Log-probabilities and divergences are in nats. `scales` are the weights [R] that a context gives
    its views, by name; `special` marks special tokens, thinking tags and bare line breaks [N].
    Missing rewards and sampling log-probabilities are NaN.

    `logged` contains the values that credits and weightings passed to `log`.
    """

    rollout: Tensor
    position: Tensor
    logp_sampler: Tensor
    reward_R: Tensor
    group_R: Tensor
    reward_mean_R: Tensor
    reward_std_R: Tensor
    pass_rate_R: Tensor
    special: Tensor
    statistics: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    scales: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    logged: dict[str, Tensor] = field(default_factory=dict[str, Tensor])

    def log(self, name: str, values: Tensor) -> None:
        """Log the mean of values [N] as `token/<name>`, and include the values in traces."""
        self.logged[f"token/{name}"] = values.detach()

    def view(self, name: str) -> Tensor:
        """A view's log-probability [N] of the sampled token. Raises ValueError if the target
        combines the views (`per_view` does not)."""
        return self.column(of_view(name))

    def column(self, name: str) -> Tensor:
        """A statistic [N]. Raises ValueError if the term does not provide it."""
        if name not in self.statistics:
            have = ", ".join(sorted(self.statistics))
            raise ValueError(f"this term records no '{name}' (it records: {have})")
        return self.statistics[name]

    def mean_R(self, values: Tensor, where: Tensor | None = None) -> Tensor:
        """The mean [R] of values [N] over each rollout's tokens, or over those for which `where` is
        true; 0 for a rollout without any."""
        inside = torch.ones_like(values) if where is None else where.to(values.dtype)
        zeros = values.new_zeros(len(self.reward_R))
        sums = zeros.index_add(0, self.rollout, values * inside)
        return sums / zeros.index_add(0, self.rollout, inside).clamp(min=1)

    @cached_property
    def longest(self) -> int:
        """The number of tokens of the longest rollout."""
        return int(self.length.max()) if len(self.length) else 0

    @cached_property
    def place(self) -> Tensor:
        """Each row's index among its rollout's rows [N], from 0."""
        counts = torch.bincount(self.rollout, minlength=self.reward_R.shape[0])
        start = counts.cumsum(0) - counts
        return torch.arange(len(self.rollout), device=self.rollout.device) - start[self.rollout]

    @cached_property
    def length(self) -> Tensor:
        """The number of tokens of each row's rollout [N]."""
        counts = torch.bincount(self.rollout, minlength=self.reward_R.shape[0])
        return counts[self.rollout]
