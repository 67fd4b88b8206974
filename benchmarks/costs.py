"""The cost of a training run: tokens, GPU hours and memory, *estimated*.

    python -m benchmarks.costs [--gpus 1 4 8 64 --json out.json]

Nothing here is measured on a GPU. Every number follows from a model's shape, a setting and the
assumptions about a GPU (`GPU`), by these formulas for the time on one GPU with n rollouts per step:

    decode    T (W / bandwidth + overhead per layer) + n kv (T P + T^2 / 2) / bandwidth, or the
              products 2 (body + head) n T / throughput if they take longer
    student   (6 body (P + T) + attention + head) n / throughput: forward, recomputed, backward
    teacher   (2 body (P' + T) + attention) n / throughput; its product with the head is in the loss
    head      2 D V T per product: three with a teacher, two without

with T tokens of completion, P and P' of the student's and teacher's prompt, W bytes of weights,
`kv` bytes of cache per token. All completions are as long as allowed, so times are upper bounds.
Rollouts whose cache does not fit are generated in waves. Processes wait only for each other's
gradients, and this wait is not counted.
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.rows import Row, finish, judged, machine
from benchmarks.shapes import SHAPES, Shape


@dataclass(frozen=True)
class GPU:
    """The assumptions about a GPU: an H100 of 80 GB that reaches 40 % of its 989 bf16 TFLOP/s and
    60 % of its 3.35 TB/s. With the overhead per layer and token step, a step of 1.7B as in the
    released OPSD code (two calls of four rollouts each) takes the published 9 s, within a fifth."""

    flops: float = 0.4 * 989e12
    bandwidth: float = 0.6 * 3.35e12
    memory: float = 0.92 * 80e9
    layer_overhead: float = 1e-4


@dataclass(frozen=True)
class Setting:
    """The rollouts of a step and lengths in tokens; `teacher_prompt` is 0 without a teacher. A
    batch of rollouts serves `reuse` steps; a pass trains on `micro_batch` of them."""

    rollouts: int
    completion: int
    steps: int
    prompt: int = 200
    teacher_prompt: int = 0
    reuse: int = 1
    micro_batch: int = 4
    rank: int = 64

    @property
    def products(self) -> int:
        """Including the head, per token."""
        return 3 if self.teacher_prompt else 2

    @property
    def generated(self) -> int:
        """The most tokens that a run can generate."""
        return self.rollouts * self.completion * self.steps // self.reuse


SETTINGS = {
    "OPSD, 1,024 tokens": Setting(32, 1024, 100, teacher_prompt=3000),
    "GRPO, 16,000 tokens": Setting(32, 16_000, 500, reuse=2, micro_batch=1),
}
"""As published: arXiv 2601.18734v3, and its GRPO baseline."""
LOSS_CHUNK = 512 * 2**20


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU. Weights are whole during generation and, if `sharded`, split over the GPUs
    during training."""

    weights: float
    learning_weights: float
    adapter: float
    activations: float
    loss: float
    sequence: float

    @property
    def learning(self) -> float:
        return self.learning_weights + self.adapter + self.activations + self.loss

    @property
    def writing(self) -> float:
        """Without the cache of any rollout."""
        return self.weights + self.adapter


def memory(shape: Shape, setting: Setting, shards: int = 1) -> Memory:
    """Weights in bfloat16; an adapter, its gradient and Adam's moments in float32; with
    checkpointing, the input of every layer and the activations of one layer; hidden states of
    student and teacher, their gradients from the loss, and one chunk of it; the cache of a
    rollout."""
    length = setting.prompt + setting.completion
    tokens = setting.micro_batch * length
    inputs = 2 * shape.layers * shape.hidden
    heads = (shape.heads + 2 * shape.kv_heads) * shape.head_dim
    layer = 2 * (6 * shape.hidden + 2 * heads + 4 * shape.intermediate)
    taught = setting.micro_batch * setting.completion
    return Memory(
        weights=shape.weights,
        learning_weights=shape.weights / shards,
        adapter=16 * shape.lora(setting.rank) / shards,
        activations=tokens * (inputs + layer),
        loss=LOSS_CHUNK + taught * shape.hidden * (2 + 2 + 4),
        sequence=shape.kv * length,
    )


@dataclass(frozen=True)
class Step:
    """Seconds of one optimizer step, by phase."""

    rollout: float
    student: float
    teacher: float
    head: float

    @property
    def seconds(self) -> float:
        return sum(asdict(self).values())


def decode(shape: Shape, setting: Setting, rollouts: int, gpu: GPU) -> float:
    """Seconds in which a GPU generates this many rollouts in parallel."""
    t, p = setting.completion, setting.prompt
    cache = rollouts * shape.kv * (t * p + t * t / 2)
    read = (t * 2 * (shape.body + shape.head) + cache) / gpu.bandwidth
    multiplied = 2 * (shape.body + shape.head) * rollouts * t / gpu.flops
    prefill = 2 * shape.body * rollouts * p / gpu.flops
    return max(read, multiplied) + t * shape.layers * gpu.layer_overhead + prefill


def step(shape: Shape, setting: Setting, rollouts: int, gpu: GPU, at_once: int) -> Step:
    """A step with this many rollouts on a GPU, `at_once` generated at a time."""
    waves = [at_once] * (rollouts // at_once) + [rollouts % at_once] * (rollouts % at_once > 0)
    t = setting.completion
    read, told = setting.prompt + t, setting.teacher_prompt + t
    student = 6 * shape.body * read + 4 * shape.attention(read)
    teacher = 2 * shape.body * told + shape.attention(told) if setting.teacher_prompt else 0
    return Step(
        rollout=sum(decode(shape, setting, n, gpu) for n in waves) / setting.reuse,
        student=rollouts * student / gpu.flops,
        teacher=rollouts * teacher / gpu.flops,
        head=rollouts * t * setting.products * 2 * shape.head / gpu.flops,
    )


def estimate(name: str, setting_name: str, gpus: int, gpu: GPU | None = None) -> Row:
    """The cost of a run. Weights are sharded if a whole copy leaves no room for training. GPUs
    beyond the number of rollouts are idle."""
    gpu = gpu or GPU()
    shape, setting = SHAPES[name], SETTINGS[setting_name]
    about = {"model": name, "setting": setting_name, "gpus": gpus, "estimate": True}
    used = memory(shape, setting)
    sharded = used.learning > gpu.memory or used.writing + used.sequence > gpu.memory
    if sharded:
        used = memory(shape, setting, gpus)
    room = int((gpu.memory - used.writing) // used.sequence)
    if room < 1 or used.learning > gpu.memory:
        return judged("cost", None, **about, fits=False)
    rollouts = math.ceil(setting.rollouts / gpus)
    at_once = min(room, rollouts)
    took = step(shape, setting, rollouts, gpu, at_once)
    hours = took.seconds * setting.steps / 3600
    return judged(
        "cost",
        took.rollout / took.seconds,
        **about,
        fits=True,
        sharded=sharded,
        generated_tokens=setting.generated,
        step_s=round(took.seconds, 1),
        hours=round(hours, 2),
        gpu_hours=round(hours * gpus, 1),
        waves=math.ceil(rollouts / at_once),
        learning_gb=round(used.learning / 1e9, 1),
        writing_gb=round((used.writing + at_once * used.sequence) / 1e9, 1),
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 4, 8, 64])
    parser.add_argument("--json", type=Path, help="also write rows and machine to this file")
    args = parser.parse_args(arguments)
    rows = [estimate(m, s, n) for s in SETTINGS for m in SHAPES for n in args.gpus]
    return finish(rows, args.json, machine())


if __name__ == "__main__":
    sys.exit(main())
