"""Rollouts from a `vllm serve` that runs elsewhere."""

from __future__ import annotations

import shutil
import tempfile
import time
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import httpx2
from pydantic import Field
from torch import nn

from opsd.credentials import cleaned
from opsd.lm.forward import causal_lm
from opsd.lm.layout import Ids
from opsd.parts import part
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
from opsd.rollout.weight_sync import (
    PROBED,
    adapter_of,
    disagreement,
    refuse_another,
    refuse_disagreement,
    save_adapter,
    save_whole,
)
from opsd.types import Finish, UserError

_START = (
    "start it with VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 VLLM_SERVER_DEV_MODE=1 vllm serve MODEL"
    " --enable-lora --max-lora-rank RANK --logprobs-mode processed_logprobs"
)


@part
class VLLMServer(EngineChoice):
    """A `vllm serve` that runs elsewhere, with the same model.

    `url` is its address (`http://localhost:8000`), `timeout` how many seconds it may take to come
    up, and to answer; `concurrency` how many prompts are asked at once. Weights reach it through
    `folder`, which it must see under the same path; a temporary folder unless given.
    """

    url: Annotated[str, Field(pattern="^https?://")] = "http://localhost:8000"
    timeout: Annotated[float, Field(gt=0)] = 240.0
    concurrency: Annotated[int, Field(gt=0)] = 256
    folder: str | None = None
    tolerance: Tolerance = None
    type: Literal["vllm_server"] = "vllm_server"
    place: ClassVar[str] = "with vLLM"

    def start(self, setup: EngineSetup) -> Engine:
        from opsd.lm.diffusion import refuse_masked_diffusion

        refuse_masked_diffusion(setup.model, self.type)
        return VLLMServerEngine(
            setup.model,
            self,
            eos_ids=setup.eos_ids,
            vocab=setup.vocab,
            probe=setup.probe,
        )


class VLLMServerEngine(Engine):
    """Asks a server for token ids, and hands it the weights as files in a folder that both see.

    The server's log-probabilities are of the distribution that it draws from: with truncation that
    is not the whole one, and completions come without any.
    """

    is_remote = True

    def returns_logprobs(self, sampling: Sampling) -> bool:
        return sampling.whole

    def __init__(
        self,
        model: nn.Module,
        choice: VLLMServer,
        *,
        eos_ids: Sequence[int],
        vocab: int,
        probe: Ids,
    ) -> None:
        self.choice, self.vocab, self.probe = choice, vocab, tuple(probe)
        self.eos_ids = list(eos_ids)
        self.folder = Path(tempfile.mkdtemp(prefix="opsd-vllm-", dir=choice.folder))
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        self.folder.chmod(0o755)
        self.base: Any = causal_lm(model)
        rows = self.base.get_output_embeddings().weight.shape[0]
        self.bias = {str(i): -100.0 for i in range(vocab, rows)}  # rows without a token
        # A server closes what has been idle for 5 s; what it is just closing is not asked again.
        limits = httpx2.Limits(keepalive_expiry=2.0)
        try:
            self.http = httpx2.Client(base_url=choice.url, timeout=choice.timeout, limits=limits)
        except httpx2.InvalidURL as error:
            raise UserError(f"engine: {shown(choice.url)} is no address ({error})") from error
        weakref.finalize(self, self.http.close)
        self.served = self.name = self._wait()
        self.syncs = 0

    def sync(self, model: nn.Module) -> None:
        """The server generates with these weights from now on. Raises UserError where it then reads
        otherwise than the model does, EngineDown where it does not answer."""
        refuse_another(model, self.base)
        before = self.name
        self.syncs += 1
        folder = self.folder / f"step-{self.syncs}-{self.folder.name[-8:]}"
        adapted = adapter_of(model)
        if adapted is not None:
            save_adapter(adapted, folder)
            named = {"lora_name": folder.name, "lora_path": str(folder)}
            self._post("/v1/load_lora_adapter", named)
            self.name = folder.name
        elif hasattr(model, "peft_config"):
            self.name = self.served
        else:
            path = str(save_whole(model, folder))
            reload = {"method": "reload_weights", "kwargs": {"weights_path": path}}
            self._post("/collective_rpc", reload)
            self._post("/reset_prefix_cache", {})
        if before not in (self.served, self.name):
            self._post("/v1/unload_lora_adapter", {"lora_name": before})
            shutil.rmtree(self.folder / before, ignore_errors=True)
        for sampling in (PROBED, replace(PROBED, temperature=2.0)):
            self._agree(model, sampling)

    def _agree(self, model: nn.Module, sampling: Sampling) -> None:
        made = self._ask(self.probe, sampling, 0)
        gap = disagreement(model, self.probe, made, self.vocab, sampling.temperature)
        refuse_disagreement(gap, self.choice.tolerance, model.dtype, _START)

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        seeds: Sequence[int],
        progress: Progress | None = None,
    ) -> list[Completion]:
        made: list[Completion | None] = [None] * len(prompts)
        with ThreadPoolExecutor(self.choice.concurrency) as pool:
            asked = {
                pool.submit(self._ask, prompt, sampling, seed): i
                for i, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True))
            }
            try:
                for future in as_completed(asked):
                    made[asked[future]] = own = future.result()
                    if progress is not None:
                        progress(1, len(own.ids))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return [completion for completion in made if completion is not None]

    def _ask(self, prompt: Sequence[int], sampling: Sampling, seed: int) -> Completion:
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
            raise UserError(f"{shown(self.choice.url)} does not answer as vLLM does") from error

    def _wait(self) -> str:
        """The name of the model that is served, once the server is there."""
        until = time.monotonic() + self.choice.timeout
        while True:
            try:
                return self.http.get("/v1/models").raise_for_status().json()["data"][0]["id"]
            except (KeyError, IndexError, TypeError, ValueError) as error:
                raise UserError(f"{shown(self.choice.url)} is no vLLM server") from error
            except httpx2.HTTPError as error:
                if time.monotonic() > until:
                    where, told = shown(self.choice.url), cleaned(str(error)).splitlines()[0]
                    raise UserError(
                        f"engine: nobody answers at {where} within {self.choice.timeout:g} s"
                        f" ({told}); {_START}"
                    ) from error
                time.sleep(min(1.0, self.choice.timeout / 4))

    def _post(self, path: str, body: dict[str, Any]) -> httpx2.Response:
        where = shown(self.choice.url)
        try:
            reply = self.http.post(path, json=body)
        except httpx2.TransportError as error:
            raise EngineDown(f"{where} has gone ({error or type(error).__name__})") from error
        if reply.is_success:
            return reply
        told = " ".join(reply.text[:2000].split())[:300]
        if reply.is_server_error:
            raise EngineDown(f"{where}{path} fails ({reply.status_code}: {told})")
        raise UserError(f"{where}{path} refuses ({reply.status_code}: {told}); {_START}")
