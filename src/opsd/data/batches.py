"""Which problems a process works on at which step: a pure function of the seed, the epoch, the step
and the outcomes that a curriculum has recorded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TypeVar

import torch
from torch.utils.data import DataLoader, IterableDataset

from opsd.data.curriculum import CurriculumAtWork
from opsd.data.stream import ProblemStream
from opsd.types import Problem, UserError

T = TypeVar("T")


@dataclass(frozen=True)
class StepShape:
    """What one process does in an optimizer step: it generates `rollouts` completions, `group` of
    each problem, splits them into `micro_batches` equal lists, and trains on them `reuse` times. A
    group never spans two processes. Raises UserError if `rollouts` is not a multiple of `group`."""

    rollouts: int
    group: int = 1
    micro_batches: int = 1
    reuse: int = 1
    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        if self.rollouts % self.group:
            near = max(1, round(self.rollouts / self.group)) * self.group
            raise UserError(
                f"{self.rollouts} rollouts per process and step cannot be split into groups of"
                f" {self.group}: set rollouts_per_step to {near * self.world}, or"
                f" per_device_train_batch_size x gradient_accumulation_steps to {near}"
            )

    @property
    def problems(self) -> int:
        """Number of problems of one process in a step."""
        return self.rollouts // self.group

    @property
    def problems_per_step(self) -> int:
        """Number of problems of all processes in a step."""
        return self.problems * self.world

    @property
    def described(self) -> str:
        """A line that says how many rollouts a step takes, and which settings decide this."""
        batch = self.rollouts // self.micro_batches
        return (
            f"{self.rollouts * self.world} rollouts, {self.group} of each of"
            f" {self.problems_per_step} problems ="
            f" per_device_train_batch_size {batch} x gradient_accumulation_steps"
            f" {self.micro_batches} x {self.world} process(es); rollouts_per_step sets the product"
        )

    def deal(self, problems: Sequence[T]) -> Iterator[list[T]]:
        """Yields the micro-batches made of a process's problems of one step."""
        rows = [problem for problem in problems for _ in range(self.group)]
        width = self.rollouts // self.micro_batches
        for _ in range(self.reuse):
            for i in range(self.micro_batches):
                yield rows[i * width : (i + 1) * width]


@dataclass
class StepSampler:
    """Yields micro-batches of problem indices for one process.

    Problems left over after the last full step are not drawn in this epoch; a set smaller than a
    step is cycled. With `labels` (a language per problem) and `weights`, some labels are drawn more
    often. A `curriculum` chooses every step's problems itself, when that step begins.
    """

    size: int
    shape: StepShape
    seed: int
    labels: Sequence[str] = ()
    weights: Mapping[str, float] = field(default_factory=dict)
    epoch: int = 0
    curriculum: CurriculumAtWork | None = None

    def __post_init__(self) -> None:
        if self.size == 0:
            raise UserError("the training set is empty; check the data source and its filters")
        unweighted = sorted(set(self.labels) - self.weights.keys()) if self.weights else []
        if unweighted:
            raise UserError(f"language weights: no weight for {', '.join(unweighted)}")

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    @property
    def steps(self) -> int:
        """Generation steps per epoch."""
        return max(1, self.size // self.shape.problems_per_step)

    def __len__(self) -> int:
        return self.steps * self.shape.reuse * self.shape.micro_batches

    def __iter__(self) -> Iterator[list[int]]:
        own, together = self.shape.problems, self.shape.problems_per_step
        mine = slice(self.shape.rank * own, (self.shape.rank + 1) * own)
        for chosen in self._chosen(together):
            yield from self.shape.deal(chosen[mine])

    def _chosen(self, count: int) -> Iterator[list[int]]:
        """Yields, per step of the epoch, the problem indices of all processes together."""
        if self.curriculum is not None:
            for step in range(self.steps):
                yield self.curriculum.draw(self.epoch * self.steps + step, count)
            return
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = _order(self.size, self.labels, self.weights, generator)
        for step in range(self.steps):
            yield [order[(step * count + i) % self.size] for i in range(count)]


def _order(
    size: int, labels: Sequence[str], weights: Mapping[str, float], generator: torch.Generator
) -> list[int]:
    """An epoch's order: a permutation; with weights, `size` indices in which each label has its
    share. The problems of one label occur equally often, give or take one."""
    order = torch.randperm(size, generator=generator).tolist()
    if not weights:
        return order
    pools: dict[str, list[int]] = {label: [] for label in weights}
    for index in order:
        pools[labels[index]].append(index)
    empty = [label for label, pool in pools.items() if not pool]
    if empty:
        raise UserError(f"data.weights: there is no problem in {', '.join(empty)}")
    quotas = _quotas(size, weights)
    drawn = [pool[i % len(pool)] for label, pool in pools.items() for i in range(quotas[label])]
    return [drawn[i] for i in torch.randperm(size, generator=generator).tolist()]


def _quotas(size: int, weights: Mapping[str, float]) -> Counter[str]:
    """Splits `size` places in proportion to the weights (largest remainder method)."""
    total = sum(weights.values())
    exact = {label: size * weight / total for label, weight in weights.items()}
    quotas = Counter({label: int(share) for label, share in exact.items()})
    by_remainder = sorted(exact, key=lambda label: int(exact[label]) - exact[label])
    quotas.update(by_remainder[: size - quotas.total()])
    return quotas


class ProblemLoader(DataLoader[Problem]):
    """Hands out lists of problems in the order of a `StepSampler`."""

    def __init__(self, problems: Sequence[Problem], sampler: StepSampler) -> None:
        super().__init__(problems, batch_sampler=sampler, collate_fn=list)  # type: ignore[arg-type]

    def set_epoch(self, epoch: int) -> None:
        self.batch_sampler.set_epoch(epoch)  # type: ignore[union-attr]


class _Streamed(IterableDataset[list[Problem]]):
    def __init__(self, stream: ProblemStream, shape: StepShape, seed: int) -> None:
        self.stream, self.shape, self.seed = stream, shape, seed

    def __iter__(self) -> Iterator[list[Problem]]:
        problems = self.stream.read(self.shape.rank, self.shape.world, self.seed)
        while own := list(islice(problems, self.shape.problems)):
            yield from self.shape.deal(own)


class StreamLoader(DataLoader[list[Problem]]):
    """Hands out lists of problems from a stream, endlessly. A resumed run finds its place by
    reading the same problems again without training on them."""

    def __init__(self, stream: ProblemStream, shape: StepShape, seed: int) -> None:
        super().__init__(_Streamed(stream, shape, seed), batch_size=None)
