"""The client of one generation server: its requests, and the weights that it generates with."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from opsd.credentials import cleaned
from opsd.rollout.endpoint import shown
from opsd.rollout.engine import Completion, EngineDown, Sampling
from opsd.types import UserError


@dataclass(frozen=True)
class Asked:
    """The common parts of all requests to a server. `mark` ends the names of this trainer's
    adapters, which distinguishes them from another trainer's; `eos_ids` end a completion; `bias` is
    added to the logits, by id. `timeout` is in seconds per request."""

    timeout: float
    mark: str
    eos_ids: tuple[int, ...]
    bias: dict[str, float]


class Replica:
    """A server at one address. `served` is the server's name for its model, `adapters` are those
    that were loaded into it. A subclass implements a kind of server's protocol.

    All requests raise EngineDown if the server does not answer or fails, UserError if it refuses.
    """

    kind: str
    """The server's name."""
    start: str
    """How to start it, for messages."""

    def __init__(self, url: str, asked: Asked) -> None:
        self.url, self.asked = url, asked
        # A server closes connections that are idle for 5 s; one that it is about to close must not
        # be reused.
        limits = httpx2.Limits(keepalive_expiry=2.0)
        try:
            self.http = httpx2.Client(base_url=url, timeout=asked.timeout, limits=limits)
        except httpx2.InvalidURL as error:
            raise UserError(f"engine: {shown(url)} is not a valid address ({error})") from error
        weakref.finalize(self, self.http.close)
        self.served = ""
        self.adapters: set[str] = set()

    def load(self, adapter: Path) -> None:
        """Load a LoRA adapter, under the name of its folder."""
        raise NotImplementedError

    def unload(self, name: str) -> None:
        """Unload an adapter; an unknown one is ignored."""
        raise NotImplementedError

    def reload(self, weights: Path) -> None:
        """Load a complete model's weights."""
        raise NotImplementedError

    def ask(
        self, prompt: Sequence[int], sampling: Sampling, seed: int, adapter: str | None
    ) -> Completion:
        """Generate a prompt's completion, with an adapter or without."""
        raise NotImplementedError

    def find(self, seconds: float) -> None:
        """Find out the server's name for its model, and its adapters. Raises EngineDown if it does
        not answer within this many seconds."""
        try:
            reply = self.http.get("/v1/models", timeout=seconds).raise_for_status()
            self.served, *others = [model["id"] for model in reply.json()["data"]]
            self.adapters = {name for name in others if name.endswith(self.asked.mark)}
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise UserError(f"{shown(self.url)} is not served by {self.kind}") from error
        except httpx2.HTTPError as error:
            raise EngineDown(cleaned(str(error)).splitlines()[0]) from error

    def wait(self) -> None:
        """Wait until the server answers. Raises UserError if it does not in time."""
        timeout = self.asked.timeout
        until = time.monotonic() + timeout
        while True:
            try:
                return self.find(timeout)
            except EngineDown as error:
                if time.monotonic() > until:
                    raise UserError(
                        f"engine: no server answers at {shown(self.url)} within {timeout:g} s"
                        f" ({error}); {self.start}"
                    ) from error
                time.sleep(min(1.0, timeout / 4))

    def hold(self, adapters: Collection[Path]) -> None:
        """Load these LoRA adapters, named by their folders, and unload all others."""
        wanted = {adapter.name: adapter for adapter in adapters}
        for name in wanted.keys() - self.adapters:
            self.load(wanted[name])
            self.adapters.add(name)
        for name in self.adapters - wanted.keys():
            self.unload(name)
            self.adapters.discard(name)

    def read(self, reply: httpx2.Response, completion: Callable[[Any], Completion]) -> Completion:
        """The completion in a response. UserError if the response is malformed."""
        try:
            return completion(reply.json())
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise UserError(f"{shown(self.url)} does not answer like {self.kind}") from error

    def forgets(self, reply: httpx2.Response, body: dict[str, Any]) -> bool:
        """Whether a refusal means that the server has restarted and lost its adapters."""
        raise NotImplementedError

    def post(
        self, path: str, body: dict[str, Any], allowed: Collection[int] = ()
    ) -> httpx2.Response:
        """Send a request; return a response that is successful or has an `allowed` status."""
        where = shown(self.url)
        try:
            reply = self.http.post(path, json=body)
        except httpx2.TransportError as error:
            told = str(error) or type(error).__name__
            raise EngineDown(f"{where} does not respond ({told})") from error
        if reply.is_success or reply.status_code in allowed:
            return reply
        told = " ".join(reply.text[:2000].split())[:300]
        if reply.is_server_error:
            raise EngineDown(f"{where}{path} fails ({reply.status_code}: {told})")
        if self.forgets(reply, body):
            raise EngineDown(f"{where} has restarted, without the adapter ({told})")
        raise UserError(f"{where}{path} refuses ({reply.status_code}: {told}); {self.start}")
