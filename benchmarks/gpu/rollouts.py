"""Tokens per second of the engine `hf`."""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch

from benchmarks.gpu.models import KNOWN
from benchmarks.rows import Row, judged
from benchmarks.shapes import network
from opsd.rollout.engine import Sampling
from opsd.rollout.hf import HFEngine


def rows(device: str, shape: str, rollouts: int, completion: int) -> Iterator[Row]:
    """Prompts of about 200 tokens; an end token is hardly ever drawn."""
    known = KNOWN[shape]
    model = network(known, device, torch.bfloat16)
    engine = HFEngine(model, eos_ids=[0], pad_id=0, vocab=known.vocab)
    prompts = [list(range(10, 110 + 200 * i // rollouts)) for i in range(rollouts)]

    def written(most: int) -> tuple[int, float]:
        begun = time.perf_counter()
        made = engine.generate(prompts, Sampling(max_tokens=most), range(rollouts))
        if device != "cpu":
            torch.cuda.synchronize()
        return sum(len(one.ids) for one in made), time.perf_counter() - begun

    _, first = written(4)
    tokens, seconds = written(completion)
    yield judged(
        "rollouts",
        None,
        shape=shape,
        rollouts=rollouts,
        completion=completion,
        tokens_per_s=round(tokens / seconds, 1),
        first_s=round(first, 2),
    )
