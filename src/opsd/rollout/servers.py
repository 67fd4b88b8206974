"""Rollouts from servers that run elsewhere: one, or several replicas of one model."""

from __future__ import annotations

import contextlib
import copy
import shutil
import tempfile
import threading
import weakref
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from typing import Annotated, Any, TypeVar

from pydantic import Field
from torch import nn

from opsd.console import log
from opsd.lm.forward import causal_lm
from opsd.parts import part, tag
from opsd.rollout.endpoint import shown
from opsd.rollout.engine import (
    Completion,
    Engine,
    EngineChoice,
    EngineDown,
    EngineSetup,
    Progress,
    Sampling,
    Tolerance,
)
from opsd.rollout.replica import Asked, Replica
from opsd.rollout.weight_sync import (
    PROBED,
    adapter_of,
    disagreement,
    refuse_another,
    refuse_disagreement,
    save_adapter,
    save_whole,
)

_PROBES = (PROBED, replace(PROBED, temperature=2.0))
_SOON = 5.0
"""Seconds to wait for a failed server to answer again."""
T, U = TypeVar("T"), TypeVar("U")
Address = Annotated[str, Field(pattern="^https?://")]
Addresses = Address | Annotated[tuple[Address, ...], Field(min_length=1)]


@part
class Servers(EngineChoice):
    """Servers that run elsewhere, each with the same model. A kind of server defines `replica`."""

    url: Addresses
    timeout: Annotated[float, Field(gt=0)] = 240.0
    concurrency: Annotated[int, Field(gt=0)] = 256
    folder: str | None = None
    tolerance: Tolerance = None

    def __post_init__(self) -> None:
        if len(set(self.urls)) < len(self.urls):
            raise ValueError("an address is given twice: each replica needs its own")

    @property
    def urls(self) -> tuple[str, ...]:
        """The addresses, at least one."""
        return (self.url,) if isinstance(self.url, str) else self.url

    def replica(self, url: str, asked: Asked) -> Replica:
        raise NotImplementedError

    def start(self, setup: EngineSetup) -> Engine:
        from opsd.lm.diffusion import refuse_masked_diffusion

        refuse_masked_diffusion(setup.model, tag(self))
        return ServersEngine(setup, self)


class ServersEngine(Engine):
    """Requests completions as token ids from servers, and passes them weights as files in a shared
    folder.

    A prompt goes to the replica with the fewest pending requests. A replica that does not answer or
    fails is dropped, and its prompts are sent to the others with the same seeds, so that a
    completion does not depend on the replica. At every sync a dropped replica is tried again, and
    used once its log-probabilities agree with the model's. If the last replica fails, the call
    raises EngineDown.

    A server's log-probabilities are those of the distribution that it samples from. With truncation
    that is not the full distribution, so completions come without log-probabilities.
    """

    is_remote = True

    def returns_logprobs(self, sampling: Sampling) -> bool:
        return sampling.whole

    def __init__(self, setup: EngineSetup, choice: Servers) -> None:
        self.choice, self.vocab, self.probe = choice, setup.vocab, tuple(setup.probe)
        self.folder = Path(tempfile.mkdtemp(prefix="opsd-servers-", dir=choice.folder))
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        self.folder.chmod(0o755)
        self.base: Any = causal_lm(setup.model)
        rows = self.base.get_output_embeddings().weight.shape[0]
        bias = {str(i): -100.0 for i in range(setup.vocab, rows)}  # padding rows
        self.mark = self.folder.name[-8:]
        self.asked = Asked(choice.timeout, self.mark, tuple(setup.eos_ids), bias)
        self.up = {url: choice.replica(url, self.asked) for url in choice.urls}
        _each(Replica.wait, self.up.values())
        self.pins_weights = hasattr(setup.model, "peft_config")
        self.adapter: str | None = None
        self.pins = Counter[str | None]()
        self.lock = threading.Lock()
        self.syncs = 0

    def sync(self, model: nn.Module) -> None:
        """Send these weights to all replicas. Raises UserError if the log-probabilities of one then
        differ from the model's, EngineDown if none answers."""
        refuse_another(model, self.base)
        self.syncs += 1
        folder = self.folder / f"step-{self.syncs}-{self.mark}"
        adapted = adapter_of(model)
        whole = adapted is None and not hasattr(model, "peft_config")
        if adapted is not None:
            save_adapter(adapted, folder)
        elif whole:
            save_whole(model, folder)
        newest = folder.name if adapted is not None else None
        with self.lock:
            kept = {newest, *(+self.pins)}
        adapters = [self.folder / name for name in kept if name]

        def renewed(url: str) -> tuple[Replica, list[Completion]] | EngineDown:
            try:
                replica = self.up.get(url) or self._found(url)
                replica.hold(adapters)
                if whole:
                    replica.reload(folder)
                return replica, [replica.ask(self.probe, how, 0, newest) for how in _PROBES]
            except EngineDown as error:
                return error

        lost: list[tuple[str, EngineDown]] = []
        for url, told in zip(self.choice.urls, _each(renewed, self.choice.urls), strict=True):
            if isinstance(told, EngineDown):
                lost.append((url, told))
                continue
            replica, probed = told
            self._agree(model, replica, probed)
            if url not in self.up:
                self.up[url] = replica
                log(f"engine: {shown(url)} is back, {self._count}")
        for url, error in lost:
            if url in self.up:
                self._drop(self.up[url], error)
        self.adapter = newest
        for old in self.folder.iterdir():
            if old != folder and old.name not in kept:
                shutil.rmtree(old, ignore_errors=True)

    @contextlib.contextmanager
    def pinned(self) -> Iterator[Engine]:
        """Keep the current adapter on the replicas within the context."""
        own = copy.copy(self)
        with self.lock:
            self.pins[own.adapter] += 1
        try:
            yield own
        finally:
            with self.lock:
                self.pins[own.adapter] -= 1

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        seeds: Sequence[int],
        progress: Progress | None = None,
    ) -> list[Completion]:
        rows, adapter = list(zip(prompts, seeds, strict=True)), self.adapter
        made: dict[int, Completion] = {}
        waiting = deque(range(len(rows)))
        asked: dict[Future[Completion], tuple[int, Replica]] = {}
        answered: SimpleQueue[Future[Completion]] = SimpleQueue()
        load = Counter[Replica]()
        pool = ThreadPoolExecutor(self.choice.concurrency * len(self.choice.urls))
        try:
            while len(made) < len(rows):
                while waiting:
                    replica = min(list(self.up.values()), key=load.__getitem__)
                    if load[replica] >= self.choice.concurrency:
                        break
                    i = waiting.popleft()
                    prompt, seed = rows[i]
                    future = pool.submit(replica.ask, prompt, sampling, seed, adapter)
                    asked[future] = i, replica
                    load[replica] += 1
                    future.add_done_callback(answered.put)
                future = answered.get()
                if future not in asked:  # from a replica that was dropped meanwhile
                    continue
                i, replica = asked.pop(future)
                load[replica] -= 1
                try:
                    made[i] = future.result()
                except EngineDown as error:
                    self._drop(replica, error)
                    lost = [one for one, (_, where) in asked.items() if where is replica]
                    waiting.extendleft([i, *(asked.pop(one)[0] for one in lost)])
                    continue
                if progress is not None:
                    progress(1, len(made[i].ids))
        finally:
            # Do not wait for requests that hang.
            pool.shutdown(wait=False, cancel_futures=True)
        return [made[i] for i in range(len(rows))]

    @property
    def _count(self) -> str:
        return f"{len(self.up)} of {len(self.choice.urls)} servers are in use"

    def _found(self, url: str) -> Replica:
        """A dropped replica that answers again. Raises EngineDown if it does not."""
        replica = self.choice.replica(url, self.asked)
        replica.find(min(_SOON, self.choice.timeout))
        return replica

    def _drop(self, replica: Replica, error: EngineDown) -> None:
        """Drop a replica. Raises the error if it is the last one."""
        with self.lock:
            if self.up.get(replica.url) is not replica:  # another call has already dropped it
                return
            if len(self.up) == 1:
                raise error
            del self.up[replica.url]
        log(f"engine: {error}; {self._count}")

    def _agree(self, model: nn.Module, replica: Replica, probed: Sequence[Completion]) -> None:
        """Raises UserError if a replica's weights differ from the model's."""
        for sampling, made in zip(_PROBES, probed, strict=True):
            gap = disagreement(model, self.probe, made, self.vocab, sampling.temperature)
            remedy = f"{shown(replica.url)}: {replica.start}"
            refuse_disagreement(gap, self.choice.tolerance, model.dtype, remedy)


def _each(act: Callable[[T], U], given: Collection[T]) -> list[U]:
    """Apply a function to all items in parallel. Raises the first exception once all have ended."""
    with ThreadPoolExecutor(len(given)) as pool:
        return list(pool.map(act, given))
