"""Generates the rollouts of later steps while the current step trains; they are then some optimizer
steps old.

Off unless `async_rollouts` is set. It needs an engine with its own copy of the weights: one that
runs elsewhere, such as a vLLM server.
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
"""The maximum number of steps whose rollouts are generated at once."""


@dataclass
class Prefetched:
    """A step's rollouts that are being generated, with their counts and observed groups, until they
    are taken."""

    made: Future[list[Group]]
    counts: Counts
    observed: list[Sequence[Group]]


@dataclass
class RolloutPrefetcher:
    """The rollouts of later steps, by the step that will train on them."""

    steps: dict[int, Prefetched] = field(default_factory=dict[int, Prefetched])
    pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(_AT_ONCE))

    def begin(self, step: int, write: Callable[[Sampler], list[Group]], sampler: Sampler) -> None:
        """Start generating a step's rollouts in the background."""
        counts, observed = Counts(), list[Sequence[Group]]()
        own = replace(sampler, observe=observed.append, counts=counts)
        self.steps[step] = Prefetched(self.pool.submit(write, own), counts, observed)

    def keep(self, step: int, groups: list[Group]) -> None:
        """Add a step's rollouts from a checkpoint."""
        made: Future[list[Group]] = Future()
        made.set_result(groups)
        every = (rollout for group in groups for rollout in group.rollouts)
        counts = Counts(sum(len(rollout.completion_ids) for rollout in every))
        self.steps[step] = Prefetched(made, counts, [groups])

    def fail(self, step: int, error: EngineDown) -> None:
        """Record that a step's rollouts cannot be generated."""
        made: Future[list[Group]] = Future()
        made.set_exception(error)
        self.steps[step] = Prefetched(made, Counts(), [])

    def wait(self) -> dict[int, list[Group]]:
        """Wait for the rollouts of all steps, without taking them. Steps whose engine failed are
        missing; `take` raises their error."""
        there = {}
        for step, own in self.steps.items():
            with contextlib.suppress(EngineDown):
                there[step] = own.made.result()
        return there

    def take(self, step: int, sampler: Sampler) -> list[Group] | None:
        """Wait for a step's rollouts and take them, adding their counts and observations to the
        sampler's; None if none were started. Raises EngineDown if the engine has failed."""
        own = self.steps.pop(step, None)
        if own is None:
            return None
        groups = own.made.result()
        sampler.counts.__iadd__(own.counts)
        for observed in own.observed:
            sampler.observe(observed)
        return groups
