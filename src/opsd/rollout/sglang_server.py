"""Rollouts from SGLang servers."""

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

_BAD = 400
_WHOLE = -1
"""SGLang's value for no top-k."""


@part
class SGLangServer(Servers):
    """An SGLang server that runs elsewhere, with the same model, or several replicas of it.

    `url`, `timeout`, `concurrency` and `folder` are as for `vllm_server`. Written from SGLang's
    protocol and tested against a server that implements it; SGLang itself has not been tested.
    """

    url: Addresses = "http://localhost:30000"
    type: Literal["sglang_server"] = "sglang_server"
    place: ClassVar[str] = "with SGLang"

    def replica(self, url: str, asked: Asked) -> Replica:
        return SGLangReplica(url, asked)


class SGLangReplica(Replica):
    """An SGLang server at one address. Its log-probabilities are those at the sampling temperature,
    unless SGLANG_RETURN_ORIGINAL_LOGPROB is set; it respects seeds only with deterministic
    inference.
    """

    kind = "SGLang"
    start = (
        "start it with sglang serve --model-path MODEL --enable-lora"
        " --max-lora-rank RANK --lora-target-modules all --enable-deterministic-inference"
    )

    def load(self, adapter: Path) -> None:
        self.post("/load_lora_adapter", {"lora_name": adapter.name, "lora_path": str(adapter)})

    def unload(self, name: str) -> None:
        self.post("/unload_lora_adapter", {"lora_name": name}, allowed=(_BAD,))

    def reload(self, weights: Path) -> None:
        self.post("/update_weights_from_disk", {"model_path": str(weights), "flush_cache": True})

    def ask(
        self, prompt: Sequence[int], sampling: Sampling, seed: int, adapter: str | None
    ) -> Completion:
        asked: dict[str, Any] = {
            "input_ids": list(prompt),
            "sampling_params": {
                "max_new_tokens": sampling.max_tokens,
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "top_k": sampling.top_k or _WHOLE,
                "min_p": sampling.min_p,
                "sampling_seed": seed,
                "stop_token_ids": list(self.asked.eos_ids),
                "logit_bias": self.asked.bias or None,
            },
            "return_logprob": True,
            **({"lora_path": adapter} if adapter else {}),
        }

        def completion(reply: Any) -> Completion:
            about = reply["meta_info"]
            told = about["output_token_logprobs"]
            ids = tuple(int(token) for _, token, *_ in told)
            logprobs = tuple(float(logprob) for logprob, *_ in told)
            finish = Finish.LENGTH if about["finish_reason"]["type"] == "length" else Finish.STOP
            return Completion(ids, logprobs if sampling.whole else None, finish)

        return self.read(self.post("/generate", asked), completion)

    def forgets(self, reply: httpx2.Response, body: dict[str, Any]) -> bool:
        return reply.status_code == _BAD and body.get("lora_path") in self.adapters
