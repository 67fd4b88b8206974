"""Engines that generate, trainers that train, weight transfers: simulated event by event.

The simulation follows `async_rollouts: {max_staleness: n}`. The rollouts of a step are a batch, and
trainers use batches in the order in which they were started. At most `n + 1` batches may be started
but not yet trained on and synchronised, so a rollout is at most `n` steps old when it is used. A
rollout goes to the engine with the fewest rollouts. New weights stop every engine during their
transfer; unfinished rollouts continue with them. An engine that fails loses its unfinished
rollouts, which start over on other engines.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

Lengths = Callable[[np.random.Generator, int], np.ndarray]
"""The lengths in tokens of this many completions."""


def fixed(tokens: int) -> Lengths:
    return lambda generator, count: np.full(count, float(tokens))


def lognormal(mean: float, spread: float, most: int) -> Lengths:
    """Lognormal lengths with this mean before truncation at `most`, and this standard deviation of
    the logarithms."""
    middle = math.log(mean) - spread**2 / 2
    return lambda generator, count: np.clip(
        generator.lognormal(middle, spread, count).round(), 1, most
    )


@dataclass(frozen=True)
class Fleet:
    """Engines generate at most `slots` rollouts each, one token of each in `token_s` plus
    `token_s_per_rollout` for every concurrent one. All trainers together train on a batch in
    `train_s`. Weights are transferred in `sync_s`, while nothing else runs. Also the number of
    steps that a rollout may be old. Engines fail after `failure_s` on average and are back after
    `restart_s`. All times are in seconds."""

    engines: int
    slots: int
    token_s: float
    token_s_per_rollout: float
    batch: int
    train_s: float
    sync_s: float
    staleness: int = 0
    failure_s: float = math.inf
    restart_s: float = 0.0

    def one_token(self, rollouts: int) -> float:
        return self.token_s + self.token_s_per_rollout * rollouts


@dataclass(frozen=True)
class Outcome:
    """Without the first steps: seconds per step; fractions of time in which the trainers train and
    an engine generates anything; tokens over those of full engines; tokens lost to failures, over
    all; steps that a rollout was old, on average and at most. Over all steps: how often each
    rollout that was trained on was generated to its end."""

    period_s: float
    trainers: float
    engines: float
    load: float
    lost: float
    mean_age: float
    oldest: int
    written: np.ndarray

    @property
    def steps_per_hour(self) -> float:
        return 3600 / self.period_s


def simulate(fleet: Fleet, lengths: Lengths, steps: int, seed: int = 0) -> Outcome:
    """Simulate this many steps. The first ones, until the pipeline is full, are not counted."""
    return _Run(fleet, lengths, steps, seed).outcome()


@dataclass
class _Engine:
    """Rollouts as (value of the token clock at which it ends, number). The clock counts the tokens
    that each of them has received."""

    rollouts: list[tuple[float, int]] = field(default_factory=list[tuple[float, int]])
    clock: float = 0.0
    since: float = 0.0
    up: bool = True
    due: int = 0
    """Only its newest event is valid."""


@dataclass
class _Totals:
    """Up to now: seconds and tokens."""

    now: float = 0.0
    learning: float = 0.0
    writing: float = 0.0
    tokens: float = 0.0
    lost: float = 0.0


class _Run:
    def __init__(self, fleet: Fleet, lengths: Lengths, steps: int, seed: int) -> None:
        self.fleet, self.draw_lengths, self.steps = fleet, lengths, steps
        self.texts, self.faults = (np.random.default_rng([seed, stream]) for stream in (0, 1))
        self.first = min(fleet.staleness + 2, steps - 1)
        self.engines = [_Engine() for _ in range(fleet.engines)]
        self.least = [(0, i) for i in range(fleet.engines)]
        """Engines by their number of rollouts; outdated entries are skipped."""
        self.waiting: deque[int] = deque()
        self.lengths = np.empty(0)
        self.version_at_start: list[int] = []
        self.written: list[int] = []
        self.missing: list[int] = []
        """For each batch, the rollouts that are not generated yet."""
        self.version, self.busy, self.paused = 0, False, False
        self.total, self.start = _Totals(), _Totals()
        self.ages: list[int] = []
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.count = 0

    def outcome(self) -> Outcome:
        for _ in range(self.fleet.staleness + 1):
            self.begin_batch()
        for engine in range(self.fleet.engines):
            self.fail_later(engine)
        self.dispatch()
        while self.version < self.steps:
            now, _, happens = heapq.heappop(self.events)
            self.total.now = now
            happens()
        end, start, fleet = self.total, self.start, self.fleet
        elapsed, tokens = end.now - start.now, end.tokens - start.tokens
        full = fleet.engines * fleet.slots * elapsed / fleet.one_token(fleet.slots)
        ages = self.ages[self.first * fleet.batch :]
        return Outcome(
            period_s=elapsed / (self.steps - self.first),
            trainers=(end.learning - start.learning) / elapsed,
            engines=(end.writing - start.writing) / (elapsed * fleet.engines),
            load=tokens / full,
            lost=(end.lost - start.lost) / max(tokens, 1.0),
            mean_age=float(np.mean(ages)),
            oldest=max(ages),
            written=np.array(self.written[: self.steps * fleet.batch]),
        )

    def after(self, seconds: float, happens: Callable[[], None]) -> None:
        self.count += 1
        heapq.heappush(self.events, (self.total.now + seconds, self.count, happens))

    def begin_batch(self) -> None:
        """The rollouts of a step may be generated."""
        first, size = len(self.lengths), self.fleet.batch
        self.lengths = np.concatenate([self.lengths, self.draw_lengths(self.texts, size)])
        self.version_at_start += [0] * size
        self.written += [0] * size
        self.missing.append(size)
        self.waiting.extend(range(first, first + size))

    def dispatch(self) -> None:
        """Assign waiting rollouts to the engines with the fewest."""
        touched: set[int] = set()
        while self.waiting and not self.paused and self.least:
            load, name = heapq.heappop(self.least)
            engine = self.engines[name]
            if not engine.up or load != len(engine.rollouts) or load >= self.fleet.slots:
                continue
            if name not in touched:
                self.bring_up_to_date(engine)
                touched.add(name)
            number = self.waiting.popleft()
            self.version_at_start[number] = self.version
            end = engine.clock + float(self.lengths[number])
            heapq.heappush(engine.rollouts, (end, number))
            self.offer(name)
        for name in touched:
            self.expect(name)

    def offer(self, name: int) -> None:
        heapq.heappush(self.least, (len(self.engines[name].rollouts), name))

    def bring_up_to_date(self, engine: _Engine) -> None:
        """Update the engine's clock and its record of work since then."""
        passed, rollouts = self.total.now - engine.since, len(engine.rollouts)
        engine.since = self.total.now
        if rollouts and not self.paused:
            tokens = passed / self.fleet.one_token(rollouts)
            engine.clock += tokens
            self.total.tokens += tokens * rollouts
            self.total.writing += passed

    def expect(self, name: int) -> None:
        """Schedule the end of the next rollout."""
        engine = self.engines[name]
        engine.due += 1
        if engine.rollouts and not self.paused:
            left = max(0.0, engine.rollouts[0][0] - engine.clock)
            due = engine.due
            self.after(
                left * self.fleet.one_token(len(engine.rollouts)), lambda: self.finish(name, due)
            )

    def finish(self, name: int, due: int) -> None:
        engine = self.engines[name]
        if due != engine.due:
            return
        self.bring_up_to_date(engine)
        end, number = heapq.heappop(engine.rollouts)
        engine.clock = end  # rounding errors do not accumulate
        self.written[number] += 1
        self.missing[number // self.fleet.batch] -= 1
        self.offer(name)
        self.expect(name)
        self.dispatch()
        self.learn()

    def learn(self) -> None:
        """Start the next step if its batch is complete and the trainers are free."""
        if self.busy or self.missing[self.version]:
            return
        self.busy = True
        size = self.fleet.batch
        batch = range(self.version * size, (self.version + 1) * size)
        self.ages += [self.version - self.version_at_start[number] for number in batch]
        self.after(self.fleet.train_s, self.publish)

    def publish(self) -> None:
        """Weights are transferred; engines stop."""
        self.total.learning += self.fleet.train_s
        for engine in self.engines:
            self.bring_up_to_date(engine)
            engine.due += 1
        self.paused = True
        self.after(self.fleet.sync_s, self.published)

    def published(self) -> None:
        """Engines continue, with the new weights; another batch may be started."""
        for engine in self.engines:
            self.bring_up_to_date(engine)
        self.paused, self.busy = False, False
        self.version += 1
        if self.version == self.first:
            self.start = replace(self.total)
        for name in range(self.fleet.engines):
            self.expect(name)
        self.begin_batch()
        self.dispatch()
        self.learn()

    def fail_later(self, name: int) -> None:
        if self.fleet.failure_s < math.inf:
            seconds = float(self.faults.exponential(self.fleet.failure_s))
            self.after(seconds, lambda: self.fail(name))

    def fail(self, name: int) -> None:
        """Its unfinished rollouts wait again, before all others."""
        engine = self.engines[name]
        self.bring_up_to_date(engine)
        for end, number in engine.rollouts:
            self.total.lost += max(0.0, float(self.lengths[number]) - (end - engine.clock))
        self.waiting.extendleft(sorted((n for _, n in engine.rollouts), reverse=True))
        engine.rollouts, engine.up = [], False
        engine.due += 1
        self.after(self.fleet.restart_s, lambda: self.restart(name))
        self.dispatch()

    def restart(self, name: int) -> None:
        self.engines[name].up = True
        self.engines[name].since = self.total.now
        self.offer(name)
        self.fail_later(name)
        self.dispatch()
