"""Who generates, as a recipe says it. An engine is a file of its own beside this one, and a choice
here that starts it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol

from pydantic import Field
from torch import nn

from opsd.parts import Slot, part
from opsd.rollout.engine import PROBE, Engine

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Tolerance = Annotated[float, Field(gt=0)] | None


@dataclass(frozen=True)
class EngineSetup:
    """What an engine starts with. `max_length` is in tokens, prompt and completion together,
    `batch_tokens` what may be in memory at once while the model itself generates; `vocab` is the
    number of ids that the tokenizer can produce."""

    model: nn.Module
    tokenizer: Any
    eos_ids: Sequence[int]
    vocab: int
    max_length: int
    batch_tokens: int = 65_536
    bf16: bool = False

    @property
    def probe(self) -> Sequence[int]:
        """Ids that two readings of the same weights are compared on."""
        return self.tokenizer(PROBE)["input_ids"]


class EngineChoice(Protocol):
    """A choice of engine. One of your own has this method too."""

    def start(self, setup: EngineSetup) -> Engine:
        """The engine at work. Raises UserError where it cannot be started."""
        ...


@part
class HF(EngineChoice):
    """The model itself, as Transformers loads it: the one in training, where it is trained."""

    type: Literal["hf"] = "hf"

    def start(self, setup: EngineSetup) -> Engine:
        from opsd.rollout.hf import HFEngine

        return HFEngine(
            setup.model,
            eos_ids=setup.eos_ids,
            pad_id=setup.tokenizer.pad_token_id,
            vocab=setup.vocab,
            batch_tokens=setup.batch_tokens,
        )


@part
class VLLM(EngineChoice):
    """vLLM in the training process, on the training device.

    It takes `gpu_memory_utilization` of the device for weights and cache, and has at most
    `max_num_seqs` completions in the making. With `sleep` it gives that memory back while the
    student learns. `dtype` is the model's own, or bfloat16 in mixed precision, unless given.
    After every change of the weights its log-probabilities must agree with the trainer's within
    `tolerance` nats: 0.001 in float32, else 0.3.
    """

    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = 0.3
    max_num_seqs: Annotated[int, Field(gt=0)] = 256
    sleep: bool = False
    enforce_eager: bool = False
    dtype: Dtype = "auto"
    tolerance: Tolerance = None
    type: Literal["vllm"] = "vllm"

    def start(self, setup: EngineSetup) -> Engine:
        from opsd.rollout.vllm import VLLMEngine

        return VLLMEngine(
            setup.model,
            self,
            eos_ids=setup.eos_ids,
            vocab=setup.vocab,
            probe=setup.probe,
            max_model_len=setup.max_length,
            bf16=setup.bf16,
        )


@part
class VLLMServer(EngineChoice):
    """A `vllm serve` that runs elsewhere, with the same model.

    `url` is its address (`http://localhost:8000`), `timeout` how many seconds it may take to come
    up, and to answer; `concurrency` how many prompts are asked at once. Weights reach it through
    `folder`, which it must see under the same path; a temporary folder unless given.
    """

    url: str = "http://localhost:8000"
    timeout: Annotated[float, Field(gt=0)] = 240.0
    concurrency: Annotated[int, Field(gt=0)] = 256
    folder: str | None = None
    tolerance: Tolerance = None
    type: Literal["vllm_server"] = "vllm_server"

    def start(self, setup: EngineSetup) -> Engine:
        from opsd.rollout.vllm_server import VLLMServerEngine

        return VLLMServerEngine(
            setup.model,
            self,
            eos_ids=setup.eos_ids,
            vocab=setup.vocab,
            probe=setup.probe,
        )


AnyEngine = Annotated[EngineChoice, Slot("engine", EngineChoice, (HF, VLLM, VLLMServer))]
