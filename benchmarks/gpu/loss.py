"""One implementation of the loss compared with the bare products: time, peak, and whether its
gradient is the exact one."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from functools import partial

from torch import Tensor

from benchmarks.loss import Shape, milliseconds, peak_bytes
from benchmarks.loss_peers import Loss, dense, floor, liger, liger_triton, ours, trl
from benchmarks.rows import Row, judged

ROUNDS, CHECKED = 7, 64


def implementation(name: str, device: str) -> Loss:
    made: dict[str, Loss] = {
        **{f"ours, {form}": ours(None, form) for form in ("triton", "compiled", "eager")},
        "TRL": trl(),
        "Liger, Triton": liger_triton,
        "Liger, chunked": liger(1024, compiled=device == "cuda"),
        "dense": dense,
    }
    return made[name]


def rows(
    device: str, name: str, divergence: str, tokens: int, hidden: int, vocab: int
) -> Iterator[Row]:
    """The ratio is to the products alone, of all rows at once, in alternating rounds."""
    student, teacher, weight = Shape(tokens, vocab, hidden, tokens).inputs(device)

    def run(loss: Loss) -> Tensor:
        leaf = student.clone().requires_grad_()
        loss(leaf, teacher, weight, divergence).backward()
        assert leaf.grad is not None
        return leaf.grad

    own, bare = partial(run, implementation(name, device)), partial(run, floor(tokens))
    begun = time.perf_counter()
    error = apart(own()[:CHECKED], student[:CHECKED], teacher[:CHECKED], weight, divergence)
    first = time.perf_counter() - begun
    bare()
    peak = peak_bytes(own, device)
    pairs = [(milliseconds(own, device), milliseconds(bare, device)) for _ in range(ROUNDS)]
    yield judged(
        "loss",
        statistics.median(mine / alone for mine, alone in pairs),
        name=name,
        divergence=divergence,
        tokens=tokens,
        hidden=hidden,
        vocab=vocab,
        ms=round(statistics.median(mine for mine, _ in pairs), 3),
        products_ms=round(statistics.median(alone for _, alone in pairs), 3),
        peak_bytes=peak,
        gradient_error=round(error, 3),
        first_s=round(first, 2),
    )


def apart(gradient: Tensor, student: Tensor, teacher: Tensor, weight: Tensor, name: str) -> float:
    """The error of a gradient with respect to the definition in float32, divided by the error of
    the definition in the dtype of the inputs; for float32 itself 1e-5 is allowed. Root mean
    squares."""
    exact = defined(student.float(), teacher.float(), weight.float(), name)
    rounding = rms(defined(student, teacher, weight, name) - exact)
    return rms(gradient - exact) / max(rounding, 1e-5 * rms(exact))


def defined(student: Tensor, teacher: Tensor, weight: Tensor, name: str) -> Tensor:
    leaf = student.clone().requires_grad_()
    dense(leaf, teacher, weight, name).backward()
    assert leaf.grad is not None
    return leaf.grad


def rms(difference: Tensor) -> float:
    return difference.float().square().mean().sqrt().item()
