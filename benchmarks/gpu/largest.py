"""The most rollouts in one pass, by doubling until memory runs out."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Iterator

import torch

from benchmarks.gpu.step import given
from benchmarks.rows import Row, judged
from benchmarks.step import Clock, ours


def rows(
    device: str, shape: str, asked: int, told: int, completion: int, first: int, bound: int
) -> Iterator[Row]:
    """One row for every number that was tried, with whether it fits."""
    rollouts, fits = first, True
    while fits and rollouts <= bound:
        seconds = None
        try:
            seconds = stepped(device, shape, asked, told, completion, rollouts)
        except torch.OutOfMemoryError:
            fits = False
        gc.collect()
        if device != "cpu":
            torch.cuda.empty_cache()
        yield judged(
            "largest",
            None,
            shape=shape,
            completion=completion,
            rollouts=rollouts,
            fits=fits,
            step_s=seconds,
        )
        rollouts *= 2


def stepped(
    device: str, shape: str, asked: int, told: int, completion: int, rollouts: int
) -> float:
    """Seconds of one step, the first."""
    world = given(device, shape, asked, told, completion, rollouts)
    clock = Clock(device)
    with tempfile.TemporaryDirectory() as folder:
        trainer = ours(world, folder, 1)
        trainer.add_callback(clock)
        trainer.train()
    return round(clock.first, 2)
