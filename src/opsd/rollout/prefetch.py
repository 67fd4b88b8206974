"""Rollouts of the steps to come, generated while this step learns: some optimizer steps old.

Off unless `async_rollouts` is set. It needs an engine whose weights stand still while the trainer's
move: one that runs elsewhere, as a vLLM server does.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from opsd.rollout.engine import EngineDown
from opsd.rollout.sources import Counts, Sampler
from opsd.types import Group

_AT_ONCE = 64
"""Steps whose rollouts may be in the making."""


@dataclass
class Prefetched:
    """A step's rollouts in the making; their counts, and what was observed of them, until they are
    taken."""

    made: Future[list[Group]]
    counts: Counts
    observed: list[Sequence[Group]]


@dataclass
class RolloutPrefetcher:
    """The rollouts of steps to come, by the step that will learn from them."""

    steps: dict[int, Prefetched] = field(default_factory=dict[int, Prefetched])
    pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(_AT_ONCE))

    def begin(self, step: int, write: Callable[[Sampler], list[Group]], sampler: Sampler) -> None:
        """Has a step's rollouts written in the background."""
        counts, observed = Counts(), list[Sequence[Group]]()
        own = replace(sampler, observe=observed.append, counts=counts)
        self.steps[step] = Prefetched(self.pool.submit(write, own), counts, observed)

    def keep(self, step: int, groups: list[Group]) -> None:
        """Takes a step's rollouts from a checkpoint."""
        made: Future[list[Group]] = Future()
        made.set_result(groups)
        every = (rollout for group in groups for rollout in group.rollouts)
        counts = Counts(sum(len(rollout.completion_ids) for rollout in every))
        self.steps[step] = Prefetched(made, counts, [groups])

    def fail(self, step: int, error: EngineDown) -> None:
        """A step's rollouts cannot be written."""
        made: Future[list[Group]] = Future()
        made.set_exception(error)
        self.steps[step] = Prefetched(made, Counts(), [])

    def wait(self) -> dict[int, list[Group]]:
        """The rollouts of every step, once they are there; they stay. None of a step whose engine
        has gone, which whoever takes them is told."""
        there = {}
        for step, own in self.steps.items():
            with contextlib.suppress(EngineDown):
                there[step] = own.made.result()
        return there

    def take(self, step: int, sampler: Sampler) -> list[Group] | None:
        """A step's rollouts, once they are there, counted and observed as the sampler's; None where
        none were begun. Raises EngineDown where the engine has gone meanwhile."""
        own = self.steps.pop(step, None)
        if own is None:
            return None
        groups = own.made.result()
        sampler.counts.__iadd__(own.counts)
        for observed in own.observed:
            sampler.observe(observed)
        return groups
