"""Who generates, as a recipe says it: `hf`, the model in training itself, or one of these."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from opsd.parts import part

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Tolerance = Annotated[float, Field(gt=0)] | None


@part
class VLLM:
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


@part
class VLLMServer:
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


AnyEngine = Annotated[VLLM | VLLMServer, Field(discriminator="type")]
