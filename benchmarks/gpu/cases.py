"""The measured cases, at real and at tiny sizes; the most informative of each part come first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from benchmarks.gpu.worker import Part

LOSSES = (
    *("ours, triton", "TRL", "Liger, Triton", "ours, compiled", "Liger, chunked"),
    *("ours, eager", "dense"),
)
TRAINERS = ("ours", "SDFT, full logits", "SDFT, top 100")


@dataclass(frozen=True)
class Sizes:
    """For the losses: forms, tokens and hidden sizes. For everything else: a model's shape; tokens
    of a prompt, of the teacher's prompt and of a completion; rollouts per pass and generated at
    once; sequences that are packed."""

    losses: Sequence[str]
    tokens: Sequence[int]
    hidden: Sequence[int]
    vocab: int
    shape: str
    asked: int
    told: int
    completion: int
    step: Sequence[int]
    written: Sequence[int]
    packed: Sequence[int]
    attention: Sequence[str]
    largest: Sequence[int]


SIZES = {
    "real": Sizes(
        losses=LOSSES,
        tokens=(8192, 4096, 2048, 1024),
        hidden=(4096, 2048),
        vocab=151_936,
        shape="Qwen3-1.7B",
        asked=180,
        told=2800,
        completion=1024,
        step=(8, 2),
        written=(32, 128),
        packed=(700, 64, 1500, 333),
        attention=("flash_attention_2", "flex_attention", "sdpa"),
        largest=(8, 256),
    ),
    "tiny": Sizes(
        losses=("ours, triton", "TRL", "Liger, Triton", "Liger, chunked", "ours, eager"),
        tokens=(32, 16),
        hidden=(16,),
        vocab=512,
        shape="tiny",
        asked=10,
        told=20,
        completion=8,
        step=(2,),
        written=(2,),
        packed=(9, 3, 14),
        attention=("flash_attention_2", "sdpa"),
        largest=(1, 1),
    ),
}


def parts(sizes: Sizes, device: str) -> list[Part]:
    most, *fewer = sizes.tokens
    model = {"device": device, "shape": sizes.shape}
    given = {**model, "asked": sizes.asked, "told": sizes.told, "completion": sizes.completion}

    def losses(names: Sequence[str], divergence: str, tokens: Sequence[int]) -> list[dict]:
        return [
            {
                "device": device,
                "name": name,
                "divergence": divergence,
                "tokens": n,
                "hidden": hidden,
                "vocab": sizes.vocab,
            }
            for n, hidden, name in product(tokens, sizes.hidden, names)
        ]

    steps = [{**given, "rollouts": n, "name": name} for n in sizes.step for name in TRAINERS]
    packed = {**model, "layers": 8, "lengths": sizes.packed}
    first, bound = sizes.largest
    return [
        Part("benchmarks.gpu.loss", 4, losses(sizes.losses, "jsd(0.5)", [most])),
        Part(
            "benchmarks.gpu.loss",
            2,
            losses(sizes.losses[:3], "jsd(0.5)", fewer)
            + losses(sizes.losses[:2], "forward_kl", [most]),
        ),
        Part("benchmarks.gpu.step", 4, steps),
        Part(
            "benchmarks.gpu.rollouts",
            2,
            [{**model, "rollouts": n, "completion": 256} for n in sizes.written],
        ),
        Part(
            "benchmarks.gpu.attention",
            1,
            [{**packed, "implementation": name} for name in sizes.attention],
        ),
        Part("benchmarks.gpu.sharded", 1.5, [{**given, "rollouts": 2}], alone=True),
        Part("benchmarks.gpu.largest", 2, [{**given, "first": first, "bound": bound}]),
    ]
