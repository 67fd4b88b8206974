"""One server that generates: what it is asked, and the weights that it writes with."""

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
    """What all questions to a server have in common. `mark` ends the names of the adapters that it
    is handed, by which they are told from another trainer's; `eos_ids` end a completion, `bias` is
    added to logits, by id. It is to answer within `timeout` seconds."""

    timeout: float
    mark: str
    eos_ids: tuple[int, ...]
    bias: dict[str, float]


class Replica:
    """A server at one address. `served` is what it calls its model, `adapters` are those that it
    was handed. A kind of server says how it is spoken to.

    Whatever asks it raises EngineDown where it does not answer or fails, UserError where it
    refuses.
    """

    kind: str
    """What the server is."""
    start: str
    """How it is to be started, for messages."""

    def __init__(self, url: str, asked: Asked) -> None:
        self.url, self.asked = url, asked
        # A server closes what has been idle for 5 s; what it is just closing is not asked again.
        limits = httpx2.Limits(keepalive_expiry=2.0)
        try:
            self.http = httpx2.Client(base_url=url, timeout=asked.timeout, limits=limits)
        except httpx2.InvalidURL as error:
            raise UserError(f"engine: {shown(url)} is not a valid address ({error})") from error
        weakref.finalize(self, self.http.close)
        self.served = ""
        self.adapters: set[str] = set()

    def load(self, adapter: Path) -> None:
        """Has one more LoRA adapter, under the name of its folder."""
        raise NotImplementedError

    def unload(self, name: str) -> None:
        """Has an adapter no more; one that is not there is none."""
        raise NotImplementedError

    def reload(self, weights: Path) -> None:
        """Has a whole model's weights from now on."""
        raise NotImplementedError

    def ask(
        self, prompt: Sequence[int], sampling: Sampling, seed: int, adapter: str | None
    ) -> Completion:
        """A prompt's completion, by the model with an adapter, or without any."""
        raise NotImplementedError

    def find(self, seconds: float) -> None:
        """Learns what the server calls the model, and which adapters it has. Raises EngineDown
        where it does not answer within so many seconds."""
        try:
            reply = self.http.get("/v1/models", timeout=seconds).raise_for_status()
            self.served, *others = [model["id"] for model in reply.json()["data"]]
            self.adapters = {name for name in others if name.endswith(self.asked.mark)}
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise UserError(f"{shown(self.url)} is no {self.kind} server") from error
        except httpx2.HTTPError as error:
            raise EngineDown(cleaned(str(error)).splitlines()[0]) from error

    def wait(self) -> None:
        """Waits until the server is there. Raises UserError where it does not come in time."""
        timeout = self.asked.timeout
        until = time.monotonic() + timeout
        while True:
            try:
                return self.find(timeout)
            except EngineDown as error:
                if time.monotonic() > until:
                    raise UserError(
                        f"engine: nobody answers at {shown(self.url)} within {timeout:g} s"
                        f" ({error}); {self.start}"
                    ) from error
                time.sleep(min(1.0, timeout / 4))

    def hold(self, adapters: Collection[Path]) -> None:
        """Has these LoRA adapters from now on, by the names of their folders, and no others."""
        wanted = {adapter.name: adapter for adapter in adapters}
        for name in wanted.keys() - self.adapters:
            self.load(wanted[name])
            self.adapters.add(name)
        for name in self.adapters - wanted.keys():
            self.unload(name)
            self.adapters.discard(name)

    def read(self, reply: httpx2.Response, completion: Callable[[Any], Completion]) -> Completion:
        """What a reply holds. UserError where it is not of its kind."""
        try:
            return completion(reply.json())
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise UserError(f"{shown(self.url)} does not answer as {self.kind} does") from error

    def forgets(self, reply: httpx2.Response, body: dict[str, Any]) -> bool:
        """Whether a refusal means that the server has started anew, without its adapters."""
        raise NotImplementedError

    def post(
        self, path: str, body: dict[str, Any], allowed: Collection[int] = ()
    ) -> httpx2.Response:
        """The reply, a success or of an `allowed` status."""
        where = shown(self.url)
        try:
            reply = self.http.post(path, json=body)
        except httpx2.TransportError as error:
            told = str(error) or type(error).__name__
            raise EngineDown(f"{where} has gone ({told})") from error
        if reply.is_success or reply.status_code in allowed:
            return reply
        told = " ".join(reply.text[:2000].split())[:300]
        if reply.is_server_error:
            raise EngineDown(f"{where}{path} fails ({reply.status_code}: {told})")
        if self.forgets(reply, body):
            raise EngineDown(f"{where} has started anew, without the adapter ({told})")
        raise UserError(f"{where}{path} refuses ({reply.status_code}: {told}); {self.start}")
