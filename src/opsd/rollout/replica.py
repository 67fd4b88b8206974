"""One `vllm serve`: what it is asked, and the weights that it writes with."""

from __future__ import annotations

import contextlib
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx2

from opsd.credentials import cleaned
from opsd.rollout.endpoint import shown
from opsd.rollout.engine import Completion, EngineDown, Sampling
from opsd.types import Finish, UserError

START = (
    "start it with VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 VLLM_SERVER_DEV_MODE=1 vllm serve MODEL"
    " --enable-lora --max-lora-rank RANK --logprobs-mode processed_logprobs"
)
_UNKNOWN = 404


class _StartedAnew(EngineDown):
    """A server knows nothing of an adapter that it was handed."""


class Replica:
    """A server at one address, which answers within `timeout` seconds. `name` is what it calls the
    weights that it writes with. `eos_ids` end a completion, `bias` is added to logits, by id.

    Whatever asks it raises EngineDown where it does not answer or fails, UserError where it
    refuses.
    """

    def __init__(
        self, url: str, timeout: float, eos_ids: Sequence[int], bias: dict[str, float]
    ) -> None:
        self.url, self.timeout, self.eos_ids, self.bias = url, timeout, list(eos_ids), bias
        # A server closes what has been idle for 5 s; what it is just closing is not asked again.
        limits = httpx2.Limits(keepalive_expiry=2.0)
        try:
            self.http = httpx2.Client(base_url=url, timeout=timeout, limits=limits)
        except httpx2.InvalidURL as error:
            raise UserError(f"engine: {shown(url)} is no address ({error})") from error
        weakref.finalize(self, self.http.close)
        self.served = self.name = ""

    def find(self, seconds: float) -> None:
        """Learns what the server calls the model. Raises EngineDown where it does not answer
        within so many seconds."""
        try:
            reply = self.http.get("/v1/models", timeout=seconds).raise_for_status()
            self.served = self.name = reply.json()["data"][0]["id"]
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise UserError(f"{shown(self.url)} is no vLLM server") from error
        except httpx2.HTTPError as error:
            raise EngineDown(cleaned(str(error)).splitlines()[0]) from error

    def wait(self) -> None:
        """Waits until the server is there. Raises UserError where it does not come in time."""
        until = time.monotonic() + self.timeout
        while True:
            try:
                return self.find(self.timeout)
            except EngineDown as error:
                if time.monotonic() > until:
                    raise UserError(
                        f"engine: nobody answers at {shown(self.url)} within {self.timeout:g} s"
                        f" ({error}); {START}"
                    ) from error
                time.sleep(min(1.0, self.timeout / 4))

    def put_on(self, adapter: Path) -> None:
        """Writes with a LoRA adapter from now on, whose name is its folder's."""
        named = {"lora_name": adapter.name, "lora_path": str(adapter)}
        self._post("/v1/load_lora_adapter", named)
        self._write_as(adapter.name)

    def take_off(self) -> None:
        """Writes with the weights that it serves from now on."""
        self._write_as(self.served)

    def reload(self, weights: Path) -> None:
        """Writes with a whole model's weights from now on."""
        how = {"method": "reload_weights", "kwargs": {"weights_path": str(weights)}}
        self._post("/collective_rpc", how)
        self._post("/reset_prefix_cache", {})

    def _write_as(self, name: str) -> None:
        before, self.name = self.name, name
        if before not in (self.served, name):
            with contextlib.suppress(_StartedAnew):
                self._post("/v1/unload_lora_adapter", {"lora_name": before})

    def ask(self, prompt: Sequence[int], sampling: Sampling, seed: int) -> Completion:
        """A prompt's completion."""
        reply = self._post(
            "/v1/completions",
            {
                "model": self.name,
                "prompt": list(prompt),
                "max_tokens": sampling.max_tokens,
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "top_k": sampling.top_k,
                "min_p": sampling.min_p,
                "seed": seed,
                "stop_token_ids": self.eos_ids,
                "logit_bias": self.bias,
                "logprobs": 0,
                "return_token_ids": True,
            },
        )
        try:
            choice = reply.json()["choices"][0]
            ids, told = choice["token_ids"], choice["logprobs"]["token_logprobs"]
            finish = Finish.LENGTH if choice["finish_reason"] == "length" else Finish.STOP
            return Completion(tuple(ids), tuple(told) if sampling.whole else None, finish)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise UserError(f"{shown(self.url)} does not answer as vLLM does") from error

    def _post(self, path: str, body: dict[str, Any]) -> httpx2.Response:
        where = shown(self.url)
        try:
            reply = self.http.post(path, json=body)
        except httpx2.TransportError as error:
            told = str(error) or type(error).__name__
            raise EngineDown(f"{where} has gone ({told})") from error
        if reply.is_success:
            return reply
        told = " ".join(reply.text[:2000].split())[:300]
        if reply.is_server_error:
            raise EngineDown(f"{where}{path} fails ({reply.status_code}: {told})")
        if reply.status_code == _UNKNOWN and self.name != self.served:
            raise _StartedAnew(f"{where} has started anew, without the adapter ({told})")
        raise UserError(f"{where}{path} refuses ({reply.status_code}: {told}); {START}")
