"""What `benchmarks.loss` compares: all forms of our loss, and other implementations of the same.

The package of a peer is imported when it first runs. If it is not installed, its row says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax
from torch.utils.checkpoint import checkpoint

from opsd.objective.divergences import Divergence, forward_kl, jsd
from opsd.objective.fused import fused_divergence
from opsd.objective.kernels import KernelName

DIVERGENCES: dict[str, tuple[Divergence, float]] = {
    "forward_kl": (forward_kl, 0.0),
    "jsd(0.5)": (jsd(0.5), 0.5),
}
"""By name: our divergence, and the number that selects it in the peers."""

Loss = Callable[[Tensor, Tensor, Tensor, str], Tensor]
"""Student and teacher [N, D], head [V, D], divergence -> the sum over rows."""


def ours(chunk: int | None, kernel: KernelName = "eager") -> Loss:
    def loss(student: Tensor, teacher: Tensor, weight: Tensor, name: str) -> Tensor:
        divergence = DIVERGENCES[name][0]
        values = fused_divergence(
            student, teacher, weight, divergence, chunk_rows=chunk, kernel=kernel
        )
        return values.sum()

    return loss


def by_value(chunk: int) -> Loss:
    """The divergence written directly from its definition, with autograd's gradient."""

    def loss(student: Tensor, teacher: Tensor, weight: Tensor, name: str) -> Tensor:
        beta = DIVERGENCES[name][1]

        def divergence(p: Tensor, q: Tensor) -> Tensor:
            if beta == 0.0:
                return (q.exp() * (q - p)).sum(-1)
            m = torch.logsumexp(torch.stack([p + math.log1p(-beta), q + math.log(beta)]), dim=0)
            towards = beta * q.exp() * (q - m) + (1 - beta) * p.exp() * (p - m)
            return towards.sum(-1)

        return fused_divergence(student, teacher, weight, divergence, chunk_rows=chunk).sum()

    return loss


def floor(chunk: int) -> Loss:
    """Only the three matrix products, in the same chunks."""

    def loss(student: Tensor, teacher: Tensor, weight: Tensor, name: str) -> Tensor:
        gradient = torch.empty_like(student)
        for start in range(0, len(student), chunk):
            rows = slice(start, start + chunk)
            logits = torch.cat([student[rows], teacher[rows]]) @ weight.t()
            gradient[rows] = logits[: len(gradient[rows])] @ weight
        return _Given.apply(student, gradient.sum(), gradient)  # pyright: ignore

    return loss


def dense(student: Tensor, teacher: Tensor, weight: Tensor, name: str) -> Tensor:
    """The usual way: full logits of both, log-softmax, the library's KL."""
    beta = DIVERGENCES[name][1]
    p = log_softmax((student @ weight.t()).float(), -1)
    q = log_softmax((teacher @ weight.t()).float(), -1)
    if beta == 0.0:
        return kl_div(p, q, reduction="sum", log_target=True)
    m = torch.logsumexp(torch.stack([p + math.log1p(-beta), q + math.log(beta)]), dim=0)
    to_target = kl_div(m, q, reduction="sum", log_target=True)
    to_student = kl_div(m, p, reduction="sum", log_target=True)
    return beta * to_target + (1 - beta) * to_student


def checkpointed(chunk: int) -> Loss:
    """The dense form on chunks of rows, whose logits are recomputed in the backward pass."""

    def loss(student: Tensor, teacher: Tensor, weight: Tensor, name: str) -> Tensor:
        parts = zip(student.split(chunk), teacher.split(chunk), strict=True)
        losses = [checkpoint(dense, s, t, weight, name, use_reentrant=False) for s, t in parts]
        return torch.stack(losses).sum()  # pyright: ignore

    return loss


def trl(tile: int | None = None) -> Loss:
    """TRL's chunked divergence with tiles of this many tokens, or its default; Triton kernels on a
    GPU."""

    def loss(student: Tensor, teacher: Tensor, weight: Tensor, name: str) -> Tensor:
        import trl.kernels.chunked_divergence as chunked

        default = chunked.TOKEN_CHUNK_SIZE
        chunked.TOKEN_CHUNK_SIZE = tile or default
        try:
            result: Any = chunked.ChunkedDivergenceFunction.apply(
                student, weight, None, teacher, weight, None, DIVERGENCES[name][1]
            )
            total = result[0].sum()
            # The tile must hold during the backward pass too, so it is run here.
            (gradient,) = torch.autograd.grad(total, student)
        finally:
            chunked.TOKEN_CHUNK_SIZE = default
        return _Given.apply(student, total.detach(), gradient)  # pyright: ignore

    return loss


def liger(chunk: int, compiled: bool = False) -> Loss:
    """Liger's chunked loss, which uses autograd inside chunks."""

    def loss(student: Tensor, teacher: Tensor, weight: Tensor, name: str) -> Tensor:
        from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

        jsd_loss = LigerFusedLinearJSDLoss(
            weight_hard_loss=0.0,
            weight_soft_loss=1.0,
            beta=DIVERGENCES[name][1],
            compiled=compiled,
            chunk_size=chunk,
        )
        labels = torch.zeros(len(student), dtype=torch.long, device=student.device)
        return jsd_loss(student, weight, teacher, weight, labels) * len(student)

    return loss


def liger_triton(student: Tensor, teacher: Tensor, weight: Tensor, name: str) -> Tensor:
    """Liger's Triton kernels, with the chunk size that they choose."""
    from liger_kernel.ops.fused_linear_jsd import LigerFusedLinearJSDFunction

    mean: Any = LigerFusedLinearJSDFunction.apply(
        student, weight, teacher, weight, None, DIVERGENCES[name][1]
    )
    return mean * len(student)


class _Given(torch.autograd.Function):
    """A loss whose gradient is already computed."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, total: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        return ctx.saved_tensors[0] * grads[0], None, None


def peers(device: str, chunk: int) -> dict[str, Loss]:
    """By name, all implementations except ours that run on a device."""
    every = {
        "dense": dense,
        "TRL chunked, default tile": trl(),
        f"TRL chunked, {chunk}": trl(chunk),
        f"Liger chunked, {chunk}": liger(chunk, compiled=device == "cuda"),
        f"checkpointed, {chunk}": checkpointed(chunk),
    }
    return every | ({"Liger Triton": liger_triton} if device == "cuda" else {})
