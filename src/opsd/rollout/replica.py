"""One `vllm serve`: what it is asked, and the weights that it writes with."""

from __future__ import annotations

import time
import weakref
from collections.abc import Collection, Sequence
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
_MISSING = 404


class Replica:
    """A server at one address, which answers within `timeout` seconds. `served` is what it calls
    its model, `adapters` are those that it was handed: their names end with `mark`, by which they
    are told from another trainer's. `eos_ids` end a completion, `bias` is added to logits, by id.

    Whatever asks it raises EngineDown where it does not answer or fails, UserError where it
    refuses.
    """

    def __init__(
        self, url: str, timeout: float, mark: str, eos_ids: Sequence[int], bias: dict[str, float]
    ) -> None:
        self.url, self.timeout, self.mark = url, timeout, mark
        self.eos_ids, self.bias = list(eos_ids), bias
        # A server closes what has been idle for 5 s; what it is just closing is not asked again.
        limits = httpx2.Limits(keepalive_expiry=2.0)
        try:
            self.http = httpx2.Client(base_url=url, timeout=timeout, limits=limits)
        except httpx2.InvalidURL as error:
            raise UserError(f"engine: {shown(url)} is no address ({error})") from error
        weakref.finalize(self, self.http.close)
        self.served = ""
        self.adapters: set[str] = set()

    def find(self, seconds: float) -> None:
        """Learns what the server calls the model, and which adapters it has. Raises EngineDown
        where it does not answer within so many seconds."""
        try:
            reply = self.http.get("/v1/models", timeout=seconds).raise_for_status()
            self.served, *others = [model["id"] for model in reply.json()["data"]]
            self.adapters = {name for name in others if name.endswith(self.mark)}
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

    def hold(self, adapters: Collection[Path]) -> None:
        """Has these LoRA adapters from now on, by the names of their folders, and no others."""
        wanted = {adapter.name: adapter for adapter in adapters}
        for name in wanted.keys() - self.adapters:
            named = {"lora_name": name, "lora_path": str(wanted[name])}
            self._post("/v1/load_lora_adapter", named)
            self.adapters.add(name)
        for name in self.adapters - wanted.keys():
            # One that has started anew has nothing to unload.
            self._post("/v1/unload_lora_adapter", {"lora_name": name}, missing=True)
            self.adapters.discard(name)

    def reload(self, weights: Path) -> None:
        """Has a whole model's weights from now on."""
        how = {"method": "reload_weights", "kwargs": {"weights_path": str(weights)}}
        self._post("/collective_rpc", how)
        self._post("/reset_prefix_cache", {})

    def ask(
        self, prompt: Sequence[int], sampling: Sampling, seed: int, adapter: str | None
    ) -> Completion:
        """A prompt's completion, by the model with an adapter, or without any."""
        reply = self._post(
            "/v1/completions",
            {
                "model": adapter or self.served,
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

    def _post(self, path: str, body: dict[str, Any], missing: bool = False) -> httpx2.Response:
        """The reply. `missing` allows that what is named is not there."""
        where = shown(self.url)
        try:
            reply = self.http.post(path, json=body)
        except httpx2.TransportError as error:
            told = str(error) or type(error).__name__
            raise EngineDown(f"{where} has gone ({told})") from error
        if reply.is_success or (missing and reply.status_code == _MISSING):
            return reply
        told = " ".join(reply.text[:2000].split())[:300]
        if reply.is_server_error:
            raise EngineDown(f"{where}{path} fails ({reply.status_code}: {told})")
        if reply.status_code == _MISSING and body.get("model") in self.adapters:
            raise EngineDown(f"{where} has started anew, without the adapter ({told})")
        raise UserError(f"{where}{path} refuses ({reply.status_code}: {told}); {START}")
