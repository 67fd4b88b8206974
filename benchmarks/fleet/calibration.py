"""The inputs of a fleet's times: each number with its source."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

from benchmarks.costs import GPU, Setting, step
from benchmarks.fleet.simulation import Fleet, Lengths, lognormal
from benchmarks.shapes import SHAPES, Shape

MODEL, RANK = "Qwen3-8B", 64
ROLLOUTS, PROMPT, TEACHER_PROMPT = 2048, 200, 3000
MEAN, SPREAD, CUT = 2000.0, 0.75, 8192
SLOTS = 64
LINK = 25e9
LOAD_S, OPTIMIZER_S, RESTART_S = 1.0, 0.5, 180.0
FAILURE_S = 54 * 24 * 3600 * 16_384 / 419


class Given(NamedTuple):
    """An input number. Its source is `counted`, `measured here`, `published` or `assumed`."""

    what: str
    value: str
    kind: str
    source: str


class Sync(NamedTuple):
    """What is transferred after a step, and how it reaches many engines."""

    what: str
    way: str

    def seconds(self, engines: int) -> float:
        """With one sender, it sends the bytes to one engine after another; in a tree, every
        receiver passes them on. Loading comes after."""
        sent = size(self.what) / LINK
        rounds = engines if self.way == "one sender" else math.ceil(math.log2(engines + 1))
        return rounds * sent + LOAD_S


ADAPTER = Sync("adapter", "one sender")
SYNCS = (ADAPTER, Sync("adapter", "tree"), Sync("all weights", "one sender"))
SYNCS += (Sync("all weights", "tree"),)


def shape() -> Shape:
    return SHAPES[MODEL]


def size(what: str) -> float:
    """Bytes to transfer, in bfloat16."""
    return 2.0 * shape().lora(RANK) if what == "adapter" else float(shape().weights)


def lengths() -> Lengths:
    return lognormal(MEAN, SPREAD, CUT)


def token_times(model: Shape, gpu: GPU) -> tuple[float, float]:
    """Seconds of a token step: of the engine, and for every concurrent rollout, whose cache is
    read, half full on average."""
    alone = 2 * (model.body + model.head) / gpu.bandwidth + model.layers * gpu.layer_overhead
    return alone, model.kv * (PROMPT + MEAN / 2) / gpu.bandwidth


def learning(rollouts: int, ranks: int, gpu: GPU) -> float:
    """Seconds of a step on this many GPUs, with tokens distributed evenly."""
    setting = Setting(rollouts, round(MEAN), 1, PROMPT, TEACHER_PROMPT)
    took = step(shape(), setting, 1, gpu, 1)
    exchanged = 2 * 4 * shape().lora(RANK) / LINK if ranks > 1 else 0.0
    return rollouts / ranks * (took.seconds - took.rollout) + exchanged + OPTIMIZER_S


def fleet(
    engines: int, ranks: int, staleness: int, sync: Sync = ADAPTER, rollouts: int = ROLLOUTS
) -> Fleet:
    """One GPU per engine and per rank."""
    token_s, token_s_per_rollout = token_times(shape(), GPU())
    return Fleet(
        engines=engines,
        slots=SLOTS,
        token_s=token_s,
        token_s_per_rollout=token_s_per_rollout,
        batch=rollouts,
        train_s=learning(rollouts, ranks, GPU()),
        sync_s=sync.seconds(engines),
        staleness=staleness,
        failure_s=FAILURE_S,
        restart_s=RESTART_S,
    )


@dataclass(frozen=True)
class Anchor:
    """A published rate, and the result of the same formula for its GPU."""

    published: float
    formula: float


def anchor() -> Anchor:
    """vLLM, Qwen3-4B, 32 prompts, a B200 of 8 TB/s (unslothai/unsloth#5108)."""
    b200 = replace(GPU(), bandwidth=0.6 * 8e12)
    token_s, per_rollout = token_times(SHAPES["Qwen3-4B"], b200)
    return Anchor(7224.0, 32 / (token_s + 32 * per_rollout))


def givens() -> list[Given]:
    """All inputs."""
    token_s, per_rollout = (1e3 * seconds for seconds in token_times(shape(), GPU()))
    checked = anchor()
    return [
        Given(
            "a token step of an engine, ms",
            f"{token_s:.1f} + {per_rollout:.3f} per rollout",
            "assumed",
            "bytes read over 60 % of an H100's bandwidth, and 0.1 ms per layer: the formula of the"
            " section above, set by OPSD's published 9 s per step. For vLLM with Qwen3-4B and 32"
            f" prompts on a B200 it gives {checked.formula:,.0f} tokens per second, where"
            f" {checked.published:,.0f} are published (unsloth#5108)",
        ),
        Given(
            "rollouts that an engine writes at once", f"{SLOTS}", "assumed", "what its cache holds"
        ),
        Given(
            "tokens of a completion",
            f"lognormal, mean {MEAN:,.0f}, cut at {CUT:,}",
            "assumed",
            "",
        ),
        Given(
            "the standard deviation of their logarithms",
            f"{SPREAD}",
            "measured here",
            "on the lengths of MATH-500's 500 reference solutions",
        ),
        Given("rollouts per step", f"{ROLLOUTS:,}", "assumed", "512 problems, four of each"),
        Given(
            "learning from one rollout, GPU seconds",
            f"{learning(1, 1, GPU()) - OPTIMIZER_S:.2f}",
            "assumed",
            "floating-point operations counted, over 40 % of an H100's peak: the section above",
        ),
        Given("the optimizer, s", f"{OPTIMIZER_S}", "assumed", ""),
        Given(
            "weights that travel, GB",
            f"adapter {size('adapter') / 1e9:.2f}, all weights {size('all weights') / 1e9:.1f}",
            "counted",
            f"{MODEL}, LoRA r={RANK}, bfloat16",
        ),
        Given(
            "a link, GB/s; loading, s", f"{LINK / 1e9:.0f}; {LOAD_S}", "assumed", "half of 400 Gb/s"
        ),
        Given(
            "hours between an engine's failures",
            f"{FAILURE_S / 3600:,.0f}",
            "published",
            "419 unexpected interruptions of 16,384 H100 in 54 days (Llama 3, arXiv 2407.21783)",
        ),
        Given("an engine's restart, s", f"{RESTART_S:.0f}", "assumed", ""),
    ]
