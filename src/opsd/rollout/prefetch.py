"""The next step's rollouts, generated while this step learns: always one optimizer step old.

Off unless `async_rollouts` is set. It needs an engine that runs elsewhere, whose weights stand
still while the trainer's move: a vLLM server.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from opsd.rollout.engine import EngineDown
from opsd.rollout.sources import Sampler
from opsd.types import Group, Problem

Write = Callable[[Sequence[Problem], Sampler, int], list[Group]]


@dataclass
class RolloutPrefetcher:
    """What is already known of the step to come: its problems, and its rollouts in the making."""

    rows: list[Problem] = field(default_factory=list[Problem])
    made: Future[list[Group]] | None = None
    sampler: Sampler | None = None
    seen: list[Sequence[Group]] = field(default_factory=list[Sequence[Group]])
    pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))

    def next_rows(self, batches: Iterator[list[Problem]], count: int) -> list[Problem]:
        """The problems of `count` micro-batches: those kept, or the next ones."""
        rows, self.rows = self.rows, []
        return rows or [problem for _ in range(count) for problem in next(batches)]

    def look(self, batches: Iterator[list[Problem]], count: int) -> bool:
        """Keeps the problems of the step to come; False where the epoch has none."""
        with contextlib.suppress(StopIteration):
            self.rows = self.next_rows(batches, count)
        return bool(self.rows)

    def begin(self, write: Write, problems: Sequence[Problem], sampler: Sampler, step: int) -> None:
        """Has a step's rollouts written in the background, counted apart until they are taken."""
        self.seen = []
        own = replace(sampler, observe=self.seen.append, generated_tokens=0, skipped=0)
        self.sampler, self.made = own, self.pool.submit(write, problems, own, step)

    def keep(self, groups: list[Group]) -> None:
        """Takes rollouts from a checkpoint."""
        self.made = Future()
        self.made.set_result(groups)

    def wait(self) -> list[Group] | None:
        """The rollouts, once they are there; they stay. None where there are none, or where the
        engine has gone, which whoever takes them is told."""
        with contextlib.suppress(EngineDown):
            return None if self.made is None else self.made.result()

    def take(self, counts: Sampler) -> list[Group] | None:
        """The rollouts, once they are there, and `counts` with theirs added; None where none were
        begun. Raises EngineDown where the engine has gone meanwhile."""
        made, own, self.made, self.sampler = self.made, self.sampler, None, None
        if made is None:
            return None
        groups = made.result()
        if own is None:  # they come from a checkpoint
            self.seen = [groups]
            every = (rollout for group in groups for rollout in group.rollouts)
            counts.generated_tokens += sum(len(rollout.completion_ids) for rollout in every)
        else:
            counts.generated_tokens += own.generated_tokens
            counts.skipped += own.skipped
        for observed in self.seen:
            counts.observe(observed)
        self.seen = []
        return groups
