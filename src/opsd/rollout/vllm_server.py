"""Rollouts from `vllm serve`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import httpx2

from opsd.parts import part
from opsd.rollout.engine import Completion, Sampling
from opsd.rollout.replica import Asked, Replica
from opsd.rollout.servers import Addresses, Servers
from opsd.types import Finish

_MISSING = 404


@part
class VLLMServer(Servers):
    """A `vllm serve` that runs elsewhere, with the same model, or several replicas of it.

    `url` is its address (`http://localhost:8000`), or a list of the replicas' addresses. `timeout`
    is the number of seconds that each may take to start, and to answer; `concurrency` the number of
    prompts that each is sent at once. Weights are passed through `folder`, which the servers must
    see under the same path; by default a temporary folder.
    """

    url: Addresses = "http://localhost:8000"
    type: Literal["vllm_server"] = "vllm_server"
    place: ClassVar[str] = "with vLLM"

    def replica(self, url: str, asked: Asked) -> Replica:
        return VLLMReplica(url, asked)


class VLLMReplica(Replica):
    """A `vllm serve` at one address."""

    kind = "vLLM"
    start = (
        "start it with VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 VLLM_SERVER_DEV_MODE=1 vllm serve MODEL"
        " --enable-lora --max-lora-rank RANK --logprobs-mode processed_logprobs"
    )

    def load(self, adapter: Path) -> None:
        named = {"lora_name": adapter.name, "lora_path": str(adapter)}
        self.post("/v1/load_lora_adapter", named)

    def unload(self, name: str) -> None:
        self.post("/v1/unload_lora_adapter", {"lora_name": name}, allowed=(_MISSING,))

    def reload(self, weights: Path) -> None:
        how = {"method": "reload_weights", "kwargs": {"weights_path": str(weights)}}
        self.post("/collective_rpc", how)
        self.post("/reset_prefix_cache", {})

    def ask(
        self, prompt: Sequence[int], sampling: Sampling, seed: int, adapter: str | None
    ) -> Completion:
        asked = {
            "model": adapter or self.served,
            "prompt": list(prompt),
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "min_p": sampling.min_p,
            "seed": seed,
            "stop_token_ids": list(self.asked.eos_ids),
            "logit_bias": self.asked.bias,
            "logprobs": 0,
            "return_token_ids": True,
        }

        def completion(reply: Any) -> Completion:
            choice = reply["choices"][0]
            ids, told = choice["token_ids"], choice["logprobs"]["token_logprobs"]
            finish = Finish.LENGTH if choice["finish_reason"] == "length" else Finish.STOP
            return Completion(tuple(ids), tuple(told) if sampling.whole else None, finish)

        return self.read(self.post("/v1/completions", asked), completion)

    def forgets(self, reply: httpx2.Response, body: dict[str, Any]) -> bool:
        return reply.status_code == _MISSING and body.get("model") in self.adapters
