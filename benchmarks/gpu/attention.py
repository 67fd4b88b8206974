"""Compares packed with padded sequences under an attention implementation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from benchmarks.gpu.loss import rms
from benchmarks.gpu.models import KNOWN
from benchmarks.loss import milliseconds
from benchmarks.rows import Row, judged
from benchmarks.shapes import in_dtype, network
from opsd.lm.forward import hidden_rows
from opsd.lm.layout import PACKED, PADDED, Layout, ModelInput


@torch.no_grad()
def rows(
    device: str, shape: str, layers: int, lengths: Sequence[int], implementation: str
) -> Iterator[Row]:
    """The ratio divides the distance between packed and padded hidden states by the distance of the
    padded ones from those in float32, where each sequence is read separately; root mean squares."""
    known = replace(KNOWN[shape], layers=layers)
    model = network(known, device).eval()
    draw = torch.Generator().manual_seed(0)
    drawn = [torch.randint(10, known.vocab, (n,), generator=draw).tolist() for n in lengths]
    inputs = [ModelInput(tuple(ids), range(len(ids))) for ids in drawn]
    exact = torch.cat([hidden_rows(model, PADDED.collate([one], 0)) for one in inputs])
    in_dtype(model, torch.bfloat16)
    model.set_attn_implementation(implementation)

    def read(layout: Layout) -> Tensor:
        return hidden_rows(model, layout.collate(inputs, 0)).float()

    padded, packed = read(PADDED), read(PACKED)
    rounding, apart = rms(padded - exact), rms(packed - padded)
    yield judged(
        "attention",
        apart / rounding,
        shape=shape,
        layers=layers,
        implementation=implementation,
        apart=apart,
        rounding=rounding,
        padded_ms=round(milliseconds(lambda: read(PADDED), device), 3),
        packed_ms=round(milliseconds(lambda: read(PACKED), device), 3),
    )
