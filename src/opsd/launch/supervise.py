"""Watches the actors of a launch: shows their output, notices which have ended, and restarts
them."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import httpx2

from opsd.console import log, speaking
from opsd.launch.cluster import LOCAL, Cluster, connected, grouped
from opsd.launch.plan import SERVED, Plan
from opsd.runs import checkpoint
from opsd.runs.folder import RunFolder
from opsd.types import RunFailed

_LOST = 128 + signal.SIGKILL
"""The exit code for a command whose actor or machine is lost."""
_WRONG = 2
"""The exit code for invalid input, for which a restart is useless."""
_GRACE = 5.0
"""Seconds for the other ranks to report after one has failed."""
_SAVING = 60.0
"""Seconds for the remaining ranks to end after a signal to save and end."""
_PATIENCE = 300.0
"""Seconds that trainers wait for an unplaced engine if others are up."""


class _Left(Exception):
    """A signal to stop arrived before training started."""


class Member:
    """A rank or an engine: a command in its own actor, in one bundle of the cluster. No method
    waits for the actor: `hear` receives the result of the pending call `asked`."""

    def __init__(self, name: str, cluster: Cluster, bundle: int) -> None:
        self.name, self.cluster, self.bundle = name, cluster, bundle
        self.host: Any = None
        self.place: tuple[str, int] | None = None
        self.running = False
        self.code: int | None = None
        self.ready()

    def ready(self) -> None:
        """Prepare an actor without a command, and request its address."""
        self.code, self.running = None, False
        if self.host is None:
            self.host = self.cluster.host(self.bundle)
        self.before, self.place = self.place, None
        self.asked: Any = self.host.place.remote()

    def start(self, command: Sequence[str], environment: dict[str, str]) -> None:
        self.running = True
        self.asked = self.host.start.remote(list(command), environment, os.getcwd())

    def hear(self) -> None:
        """Receive the pending result: show its lines, and set `code` if the command has ended."""
        import ray

        asked, self.asked = self.asked, None
        try:
            answer = ray.get(asked)
        except ray.exceptions.RayActorError:
            log(f"{self.name}: its actor is gone")
            self.host, self.code, self.running = None, _LOST, False
            return
        if not self.running:
            self.place = answer
            return
        lines, self.code = answer
        with speaking(self.name):
            for line in lines:
                log(line)
        if self.code is None:
            self.asked = self.host.news.remote()
        self.running = self.code is None

    def tell(self, number: int) -> None:
        if self.running:
            self.host.tell.remote(number)

    def end(self) -> None:
        """Kill the command; `hear` then receives its end."""
        if self.running:
            self.host.end.remote()


class EngineMember(Member):
    """A server. If restarted on the same machine, it keeps its address."""

    up = given_up = False
    failures = 0

    @property
    def url(self) -> str:
        address, port = self.place or ("", 0)
        return f"http://{address}:{port}"

    def follow(self, plan: Plan) -> None:
        """Start the server once it has an address, and restart it if it has ended."""
        if self.given_up:
            return
        if self.code is not None:
            self.failures, self.up = self.failures + 1, False
            self.given_up = self.failures > plan.max_restarts
            fate = "it is left out" if self.given_up else "it is started again"
            log(f"{self.name} has ended with exit code {self.code}: {fate}")
            if not self.given_up:
                self.ready()
        elif self.place is not None and not self.running:
            if self.before is not None and self.before[0] == self.place[0]:
                self.place = self.before
            elif self.before is not None:
                log(f"{self.name} has a new address: trainers use it after their next restart")
            self.start(plan.engine(*self.place), SERVED)
        elif self.running and not self.up and _answers(self.url):
            self.up, self.failures = True, 0
            log(f"{self.name} is up at {self.url}")


def _answers(url: str) -> bool:
    with contextlib.suppress(httpx2.HTTPError):
        return httpx2.get(f"{url}/health", timeout=1.0).is_success
    return False


class Launch:
    """The trainers and engines of a plan. `told` returns the signal that was received, 0 if
    none."""

    def __init__(self, plan: Plan, cluster: Cluster, resume: bool, told: Callable[[], int]) -> None:
        self.plan, self.resume, self.told = plan, resume, told
        self.run = RunFolder(plan.output)
        bundles = range(plan.trainers, plan.trainers + plan.engines)
        self.trainers = [Member(f"rank {i}", cluster, i) for i in range(plan.trainers)]
        self.engines = [EngineMember(f"engine {i}", cluster, b) for i, b in enumerate(bundles)]
        self.restarts = 0
        self._ready()

    def _ready(self) -> None:
        self.training, self.passed_on = False, 0
        self.since = time.monotonic()
        self.failed: float | None = None
        self.cause = 0

    def watch(self) -> int:
        """Watch until training has ended, and return its exit code. Raises RunFailed if no engine
        starts."""
        import ray

        while True:
            waited = {m.asked: m for m in (*self.trainers, *self.engines) if m.asked is not None}
            if waited:
                answered, _ = ray.wait(list(waited), timeout=1.0)
                for asked in answered:
                    waited[asked].hear()
            for engine in self.engines:
                engine.follow(self.plan)
            code = self._train() if self.training else self._begin()
            if code is not None:
                return code

    def _begin(self) -> int | None:
        """Start all ranks once everything is ready."""
        if self.told():
            raise _Left
        for lost in self.trainers:
            if lost.code is not None:
                self.restarts += 1
                if self.restarts > self.plan.max_restarts:
                    raise RunFailed(f"{lost.name}: its actors keep failing; see Ray's logs")
                lost.ready()
        up = [engine for engine in self.engines if engine.up]
        if self.engines and all(engine.given_up for engine in self.engines):
            raise RunFailed("no engine starts: see their output above")
        if any(trainer.place is None for trainer in self.trainers):
            return
        unplaced = [engine for engine in self.engines if not (engine.up or engine.given_up)]
        late = time.monotonic() - self.since > _PATIENCE
        if unplaced and not (up and late and all(e.place is None for e in unplaced)):
            return
        shutil.rmtree(self.plan.weights, ignore_errors=True)  # left by ranks that have ended
        if up:
            self.plan.weights.mkdir(parents=True)
        command = self.plan.trainer([engine.url for engine in up], self._goes_on())
        (address, port), *_ = [trainer.place for trainer in self.trainers if trainer.place]
        for rank, trainer in enumerate(self.trainers):
            trainer.start(command, self.plan.rank(rank, address, port))
        self.training = True

    def _goes_on(self) -> bool:
        """Whether to resume the run. If ranks were lost before their first checkpoint, their files
        are moved away."""
        if not self.restarts or checkpoint.complete(self.run.path):
            return self.resume or bool(self.restarts)
        if self.run.begun:
            aside = self.run.path.with_name(f"{self.run.path.name}.lost-{self.restarts}")
            log(f"{self.run.path} has no checkpoint yet: its files are moved to {aside}")
            self.run.path.rename(aside)
        return False

    def _train(self) -> int | None:
        """The exit code once training has ended for good, else None."""
        if self.told() and not self.passed_on:
            self.passed_on = self.told()
            for trainer in self.trainers:
                trainer.tell(self.passed_on)
        ended = [trainer.code for trainer in self.trainers if trainer.code is not None]
        if self.failed is None and any(ended):
            self.failed, self.cause = time.monotonic(), next(code for code in ended if code)
        if len(ended) < len(self.trainers):
            # A rank would wait up to half an hour for one that has ended.
            grace = _SAVING if self.passed_on else _GRACE
            if self.failed is not None and time.monotonic() - self.failed > grace:
                for trainer in self.trainers:
                    trainer.end()
            return None
        if not any(ended) or self.passed_on:
            return self.cause
        if _WRONG in ended or self.restarts == self.plan.max_restarts:
            return _WRONG if _WRONG in ended else self.cause
        self.restarts += 1
        left = f"{self.restarts} of {self.plan.max_restarts}"
        log(f"training has ended with exit code {self.cause}: all ranks start again ({left})")
        for trainer in self.trainers:
            trainer.ready()
        self._ready()
        return None

    def end(self) -> None:
        """End all commands that still run."""
        import ray

        members = [m for m in (*self.trainers, *self.engines) if m.running]
        with contextlib.suppress(ray.exceptions.RayError):
            ray.get([m.host.end.remote() for m in members], timeout=10)


def launch(plan: Plan, address: str, *, resume: bool = False) -> int:
    """Run a plan on the Ray cluster at an address, or on a cluster of this machine alone (`local`),
    and return the exit code of the training.

    SIGTERM and SIGINT are forwarded to the trainers, which save and end; a second signal ends
    everything at once. Raises UserError if the recipe or the cluster does not allow the plan,
    RunFailed if no engine starts.
    """
    if not resume:
        RunFolder(plan.output).refuse_taken()
    bundles = plan.trainers + plan.engines
    with connected(address, bundles), _signals() as told:

        def leave() -> None:
            if told():
                raise _Left

        try:
            grows = address != LOCAL
            with grouped(bundles, plan.strategy, grows=grows, leave=leave) as cluster:
                own = Launch(plan, cluster, resume, told)
                try:
                    return own.watch()
                finally:
                    own.end()
                    shutil.rmtree(plan.weights, ignore_errors=True)
        except _Left:
            return 128 + told()


@contextlib.contextmanager
def _signals() -> Iterator[Callable[[], int]]:
    """Catch the first signal in the block; yields a function that returns its number, 0 until then.
    A second signal raises SystemExit."""
    came = 0

    def receive(number: int, frame: Any) -> None:
        nonlocal came
        if came:
            raise SystemExit(128 + number)
        came = number
        os.write(2, b"stop signal received: trainers save first; a second one ends all at once\n")

    before = {number: signal.signal(number, receive) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
