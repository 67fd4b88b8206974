"""The models that are measured."""

from __future__ import annotations

import torch

from benchmarks.shapes import SHAPES, Shape
from benchmarks.step import World

KNOWN = {"tiny": Shape(64, 128, 2, 4, 2, tied=True, head_dim=16, vocab=512), **SHAPES}


def given(device: str, shape: str, asked: int, told: int, completion: int, rollouts: int) -> World:
    """So many rollouts of so many tokens, under LoRA r=64; on a GPU in bfloat16."""
    return World(
        KNOWN[shape],
        [completion] * rollouts,
        device=device,
        dtype=torch.float32 if device == "cpu" else torch.bfloat16,
        rank=64,
        asked=asked,
        told=told,
    )
