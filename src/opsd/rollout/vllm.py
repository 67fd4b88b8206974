"""Rollouts with vLLM in the training process."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from opsd.lm.forward import causal_lm
from opsd.lm.gguf import is_gguf
from opsd.lm.layout import Ids
from opsd.parts import part
from opsd.rollout.engine import (
    Completion,
    Dtype,
    Engine,
    EngineChoice,
    EngineSetup,
    Progress,
    Sampling,
    Tolerance,
    silent,
)
from opsd.rollout.weight_sync import (
    PROBED,
    adapter_of,
    disagreement,
    refuse_another,
    refuse_disagreement,
    save_adapter,
    save_whole,
    whole_weights,
)
from opsd.types import Finish, UserError
from opsd.validation import install

_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""The maximum LoRA ranks that vLLM supports."""


@part
class VLLM(EngineChoice):
    """vLLM in the training process, on the training device.

    It uses `gpu_memory_utilization` of the device for weights and cache, and generates at most
    `max_num_seqs` completions at once. With `sleep` it frees that memory while the student trains.
    By default `dtype` is the model's own, or bfloat16 in mixed precision. After every change of the
    weights its log-probabilities must agree with the trainer's within `tolerance` nats: 0.001 in
    float32, else 0.3.
    """

    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = 0.3
    max_num_seqs: Annotated[int, Field(gt=0)] = 256
    sleep: bool = False
    enforce_eager: bool = False
    dtype: Dtype = "auto"
    tolerance: Tolerance = None
    type: Literal["vllm"] = "vllm"
    place: ClassVar[str] = "with vLLM"

    def start(self, setup: EngineSetup) -> Engine:
        from opsd.lm.diffusion import refuse_masked_diffusion

        refuse_masked_diffusion(setup.model, self.type)
        return VLLMEngine(
            setup.model,
            self,
            eos_ids=setup.eos_ids,
            vocab=setup.vocab,
            probe=setup.probe,
            max_model_len=setup.max_length,
            bf16=setup.bf16,
        )


class VLLMEngine(Engine):
    """Generates with vLLM: continuous batching, paged cache, shared prefixes.

    `sync` passes only the adapter, or all weights if there is none, and compares log-probabilities
    on `probe`. `max_model_len` is in tokens, prompt and completion together.
    """

    def __init__(
        self,
        model: nn.Module,
        choice: VLLM,
        *,
        eos_ids: Sequence[int],
        vocab: int,
        probe: Ids,
        max_model_len: int,
        bf16: bool = False,
    ) -> None:
        self.choice, self.vocab, self.probe = choice, vocab, tuple(probe)
        self.eos_ids, self.asleep = list(eos_ids), False
        self.files = tempfile.TemporaryDirectory(prefix="opsd-vllm-", ignore_cleanup_errors=True)
        self.folder = Path(self.files.name)
        self.adapters, self.adapter = 0, None
        own = "bfloat16" if bf16 else str(model.dtype).removeprefix("torch.")
        self.dtype = getattr(torch, own if choice.dtype == "auto" else choice.dtype)
        self.llm = _start(model, choice, self.dtype, max_model_len, self.folder)
        self.temperature = 1.0
        self.llm.apply_model(self._listen)
        self.base: Any = causal_lm(model)

    def _listen(self, inner: Any) -> None:
        """Make the model's logits end at the last id with a token, and divide them by the
        temperature, so that the log-probabilities that vLLM returns before any truncation are those
        of the full distribution at the sampling temperature."""
        compute = inner.compute_logits

        def known(*args: Any, **kwargs: Any) -> Tensor | None:
            logits = compute(*args, **kwargs)
            return None if logits is None else logits[..., : self.vocab] / self.temperature

        inner.compute_logits = known

    def sync(self, model: nn.Module) -> None:
        """Generate with these weights from now on. Raises UserError if vLLM's log-probabilities
        then differ from the model's."""
        refuse_another(model, self.base)
        self._wake()
        adapted = adapter_of(model)
        if self.adapter is not None:
            self.llm.llm_engine.remove_lora(self.adapter.lora_int_id)
            shutil.rmtree(self.adapter.lora_path)
            self.adapter = None
        if adapted is not None:
            self.adapter = self._put_on(adapted)
        elif not hasattr(model, "peft_config"):
            weights = {"weights_iterator": whole_weights(model)}
            self.llm.collective_rpc("reload_weights", kwargs=weights)
            self.llm.apply_model(_pack_head)
        self.llm.reset_prefix_cache()
        made = self._run([self.probe], PROBED, [0], None)[0]
        gap = disagreement(model, self.probe, made, self.vocab)
        refuse_disagreement(gap, self.choice.tolerance, self.dtype)

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        seeds: Sequence[int],
        progress: Progress | None = None,
    ) -> list[Completion]:
        self._wake()
        made = self._run(prompts, sampling, seeds, progress)
        if self.choice.sleep:
            self.llm.sleep(level=1)
            self.asleep = True
        return made

    def _wake(self) -> None:
        if self.asleep:
            self.llm.wake_up()
            self.asleep = False

    def _put_on(self, model: Any) -> Any:
        """Each adapter gets a new number, so that nothing cached for an earlier one is used for
        it."""
        from vllm.lora.request import LoRARequest

        self.adapters += 1
        name = f"step-{self.adapters}"
        path = save_adapter(model, self.folder / name)
        return LoRARequest(name, self.adapters, str(path))

    def _run(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        seeds: Sequence[int],
        progress: Progress | None,
    ) -> list[Completion]:
        from vllm import SamplingParams

        self.temperature = sampling.temperature or 1.0
        engine = self.llm.llm_engine
        for i, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True)):
            how = SamplingParams(
                temperature=1.0 if sampling.temperature > 0 else 0.0,
                top_p=sampling.top_p,
                top_k=sampling.top_k,
                min_p=sampling.min_p,
                seed=seed,
                max_tokens=sampling.max_tokens,
                stop_token_ids=self.eos_ids,
                logprobs=0,
                detokenize=False,
            )
            asked = {"prompt_token_ids": list(prompt)}
            engine.add_request(str(i), asked, how, lora_request=self.adapter)
        made: dict[int, Completion] = {}
        progress = progress or silent
        written = [0] * len(prompts)
        while engine.has_unfinished_requests():
            progress(0)
            for output in engine.step():
                number, own = int(output.request_id), output.outputs[0]
                progress(int(output.finished), len(own.token_ids) - written[number])
                written[number] = len(own.token_ids)
                if output.finished:
                    made[number] = _completion(own)
        return [made[i] for i in range(len(prompts))]


def _completion(output: Any) -> Completion:
    ids = tuple(output.token_ids)
    logprobs = tuple(told[i].logprob for told, i in zip(output.logprobs, ids, strict=True))
    finish = Finish.LENGTH if output.finish_reason == "length" else Finish.STOP
    return Completion(ids, logprobs, finish)


def _pack_head(inner: Any) -> None:
    """On a CPU, the output layer uses a packed copy of its weight, which reloading does not renew
    if the weight is tied to the embedding."""
    head = getattr(inner, "lm_head", None)
    if head is not None and head.weight.device.type == "cpu":
        head.quant_method.process_weights_after_loading(head)


def _start(
    model: nn.Module, choice: VLLM, dtype: torch.dtype, max_model_len: int, folder: Path
) -> Any:
    """vLLM with the base model's weights, in this process, which has the weights."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    try:
        from vllm import LLM
    except ImportError as error:
        told = f"engine: vllm is not installed: {install('vllm')}"
        raise UserError(told) from error
    base = causal_lm(model)
    path = base.config._name_or_path
    # vLLM reads GGUF files only through a separate package, if at all.
    if not path or is_gguf(path):
        path = str(save_whole(model, folder / "base"))
    rank = max((c.r for c in getattr(model, "peft_config", {}).values()), default=None)
    if rank is not None and rank > _RANKS[-1]:
        raise UserError(f"engine: vLLM takes adapters up to rank {_RANKS[-1]}, not {rank}")
    lora = {} if rank is None else {"enable_lora": True, "max_loras": 1}
    if rank is not None:
        lora["max_lora_rank"] = next(r for r in _RANKS if r >= rank)
    several = {"distributed_executor_backend": "external_launcher"} if _several() else {}
    return LLM(
        model=path,
        revision=getattr(base.config, "_commit_hash", None),
        dtype=str(dtype).removeprefix("torch."),
        skip_tokenizer_init=True,
        max_model_len=max_model_len,
        max_num_seqs=choice.max_num_seqs,
        gpu_memory_utilization=choice.gpu_memory_utilization,
        enforce_eager=choice.enforce_eager,
        enable_sleep_mode=choice.sleep,
        enable_prefix_caching=True,
        logprobs_mode="raw_logprobs",
        disable_log_stats=True,
        seed=0,
        **lora,
        **several,
    )


def _several() -> bool:
    """Whether this is one of several training processes, each with its own vLLM."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1
