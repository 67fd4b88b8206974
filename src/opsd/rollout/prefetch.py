"""The next step's rollouts, generated while this step learns: always one optimizer step old.

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


@dataclass
class RolloutPrefetcher:
    """The rollouts of the step to come, in the making; their counts, and what was observed of them,
    until they are taken."""

    made: Future[list[Group]] | None = None
    counts: Counts | None = None
    observed: list[Sequence[Group]] = field(default_factory=list[Sequence[Group]])
    pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))

    def begin(self, write: Callable[[Sampler], list[Group]], sampler: Sampler) -> None:
        """Has a step's rollouts written in the background."""
        self.counts, self.observed = Counts(), []
        own = replace(sampler, observe=self.observed.append, counts=self.counts)
        self.made = self.pool.submit(write, own)

    def keep(self, groups: list[Group]) -> None:
        """Takes rollouts from a checkpoint."""
        self.made, self.counts = Future(), None
        self.made.set_result(groups)

    def wait(self) -> list[Group] | None:
        """The rollouts, once they are there; they stay. None where there are none, or where the
        engine has gone, which whoever takes them is told."""
        with contextlib.suppress(EngineDown):
            return None if self.made is None else self.made.result()

    def take(self, sampler: Sampler) -> list[Group] | None:
        """The rollouts, once they are there, counted and observed as the sampler's; None where none
        were begun. Raises EngineDown where the engine has gone meanwhile."""
        made, counts, self.made, self.counts = self.made, self.counts, None, None
        if made is None:
            return None
        groups = made.result()
        if counts is None:  # they come from a checkpoint
            self.observed = [groups]
            every = (rollout for group in groups for rollout in group.rollouts)
            counts = Counts(sum(len(rollout.completion_ids) for rollout in every))
        sampler.counts.__iadd__(counts)
        for observed in self.observed:
            sampler.observe(observed)
        self.observed = []
        return groups
