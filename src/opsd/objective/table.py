"""A step's taught tokens without gradient: what credits and weightings may look at."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor


def of_view(name: str) -> str:
    """The statistic that holds a view's log-probability of the sampled token. Views are named by
    users; no fixed statistic's name has a slash."""
    return f"view/{name}"


@dataclass(frozen=True)
class TokenTable:
    """One row per token [N]; per-rollout columns [R] are read through `rollout` (row -> rollout).

    `position` is where a token stands in its completion. `statistics` are what a term saw while its
    rows were in memory: `logp_student`, `logp_target` and `of_view(name)` at the sampled token,
    `entropy_student`, `entropy_teacher`, `divergence`, `clipped`, `confidence_teacher` where a
    weighting asks for it, and what target and support log, as `target/<name>` and
    `support/<name>`. Log-probabilities and divergences in nats. `scales` are the weights [R] that a
    context gives its views, by name; `special` marks special tokens, thinking tags and bare line
    breaks [N]. What is absent, a reward or a sampling log-probability, is NaN.

    `logged` is what credits and weightings have given to `log`.
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
        """Has the mean of values [N] logged, as `token/<name>`, and the values traced."""
        self.logged[f"token/{name}"] = values.detach()

    def view(self, name: str) -> Tensor:
        """A view's log-probability [N] of the sampled token. Raises ValueError where the views are
        joined before they are read (the target `per_view` leaves them apart)."""
        return self.column(of_view(name))

    def column(self, name: str) -> Tensor:
        """A statistic [N]. Raises ValueError where the term does not provide it."""
        if name not in self.statistics:
            have = ", ".join(sorted(self.statistics))
            raise ValueError(f"this term records no '{name}' (it records: {have})")
        return self.statistics[name]

    def mean_R(self, values: Tensor, where: Tensor | None = None) -> Tensor:
        """The mean [R] of values [N] over each rollout's tokens, or those `where` one holds; 0 for
        a rollout without any."""
        inside = torch.ones_like(values) if where is None else where.to(values.dtype)
        zeros = values.new_zeros(len(self.reward_R))
        sums = zeros.index_add(0, self.rollout, values * inside)
        return sums / zeros.index_add(0, self.rollout, inside).clamp(min=1)

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest rollout."""
        return int(self.length.max()) if len(self.length) else 0

    @cached_property
    def place(self) -> Tensor:
        """Each row's place among its rollout's rows [N], from 0."""
        counts = torch.bincount(self.rollout, minlength=self.reward_R.shape[0])
        start = counts.cumsum(0) - counts
        return torch.arange(len(self.rollout), device=self.rollout.device) - start[self.rollout]

    @cached_property
    def length(self) -> Tensor:
        """Tokens of each row's rollout [N]."""
        counts = torch.bincount(self.rollout, minlength=self.reward_R.shape[0])
        return counts[self.rollout]
