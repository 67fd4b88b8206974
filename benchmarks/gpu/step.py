"""A trainer's whole optimizer step on given completions: ours, or TRL's SDFT trainer's."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator

import torch

from benchmarks.gpu.models import KNOWN
from benchmarks.loss import peak_bytes
from benchmarks.rows import Row, judged
from benchmarks.step import DISTILLERS, Clock, World

STEPS = 4


def rows(
    device: str, shape: str, asked: int, told: int, completion: int, rollouts: int, name: str
) -> Iterator[Row]:
    """The median of all steps except the first; the peak above the model."""
    world = given(device, shape, asked, told, completion, rollouts)
    clock = Clock(device)
    with tempfile.TemporaryDirectory() as folder:
        trainer = DISTILLERS[name](world, folder, STEPS)
        trainer.add_callback(clock)
        peak = peak_bytes(trainer.train, device)
    yield judged(
        "step",
        None,
        name=name,
        shape=shape,
        completion=completion,
        rollouts=rollouts,
        step_s=round(statistics.median(clock.seconds), 4),
        peak_bytes=peak,
        loss=next(row["loss"] for row in trainer.state.log_history if "loss" in row),
        first_s=round(clock.first, 2),
    )


def given(device: str, shape: str, asked: int, told: int, completion: int, rollouts: int) -> World:
    """This many rollouts of this many tokens, with LoRA r=64; in bfloat16 on a GPU."""
    return World(
        KNOWN[shape],
        [completion] * rollouts,
        device=device,
        dtype=torch.float32 if device == "cpu" else torch.bfloat16,
        rank=64,
        asked=asked,
        told=told,
    )
