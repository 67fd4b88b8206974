"""Which problems a process works on at which step: a pure function of seed, epoch and step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.utils.data import DataLoader

from opsd.types import Problem, UserError


@dataclass
class StepSampler:
    """Yields micro-batches of problem indices for one process.

    A step takes `rollouts` per process, `group` of each problem, split into `micro_batches` equal
    lists; every step is repeated `reuse` times. A group never spans two processes. Problems that do
    not fill a last step wait for the next epoch's order; a set smaller than a step is cycled.
    """

    size: int
    rollouts: int
    group: int
    micro_batches: int
    reuse: int
    seed: int
    rank: int = 0
    world: int = 1
    epoch: int = 0

    def __post_init__(self) -> None:
        if self.size == 0:
            raise UserError("the training set is empty; check the data source and its filters")
        if self.rollouts % self.group:
            near = max(1, round(self.rollouts / self.group)) * self.group
            raise UserError(
                f"{self.rollouts} rollouts per process and step cannot be split into groups of"
                f" {self.group}: set per_device_train_batch_size x gradient_accumulation_steps to"
                f" {near}"
            )

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    @property
    def problems_per_step(self) -> int:
        return self.rollouts // self.group * self.world

    @property
    def steps(self) -> int:
        """Generation steps per epoch."""
        return max(1, self.size // self.problems_per_step)

    def __len__(self) -> int:
        return self.steps * self.reuse * self.micro_batches

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(self.size, generator=generator).tolist()
        own = self.rollouts // self.group
        width = self.rollouts // self.micro_batches
        for step in range(self.steps):
            start = step * self.problems_per_step + self.rank * own
            problems = [order[(start + i) % self.size] for i in range(own)]
            rows = [problem for problem in problems for _ in range(self.group)]
            for _ in range(self.reuse):
                for i in range(self.micro_batches):
                    yield rows[i * width : (i + 1) * width]


class ProblemLoader(DataLoader[Problem]):
    """Hands out lists of problems in the order of a `StepSampler`."""

    def __init__(self, problems: Sequence[Problem], sampler: StepSampler) -> None:
        super().__init__(problems, batch_sampler=sampler, collate_fn=list)  # type: ignore[arg-type]

    def set_epoch(self, epoch: int) -> None:
        self.batch_sampler.set_epoch(epoch)  # type: ignore[union-attr]
