"""The exact loss against its peers: peak memory, CPU time, products with the head.

    python -m benchmarks.loss [--rows 512 --vocab 32000 --hidden 256 --rounds 5 --json out.json]

Every implementation computes the sum of per-token divergences and its gradient by the student's
hidden states, with a frozen head, on the same rows. Rounds are interleaved; times are medians of
this process's CPU time on one thread, memory the peak of bytes allocated above what was there
before. Prints one JSON row per measurement; exit code 1 when a target is missed. Peers are
measured as they run on a CPU: TRL without its Triton kernels, Liger without compilation.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import trl.kernels.chunked_divergence as trl_chunked
from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from opsd.objective.divergences import Divergence, forward_kl, jsd
from opsd.objective.fused import fused_divergence

CHUNK = 64
OURS = "ours, 64"
DIVERGENCES: dict[str, tuple[Divergence, float]] = {
    "forward_kl": (forward_kl, 0.0),
    "jsd(0.5)": (jsd(0.5), 0.5),
}
"""By name: ours, and the number by which the peers choose it."""
PEAK_TARGET = {"dense": 10.0}
"""How many times our peak each peer must at least take. Times: all of them longer than ours."""

Loss = Callable[[Tensor, Tensor, Tensor, str], Tensor]


def ours(student: Tensor, teacher: Tensor, weight: Tensor, name: str) -> Tensor:
    return fused_divergence(student, teacher, weight, DIVERGENCES[name][0], chunk_rows=CHUNK).sum()


def dense(student: Tensor, teacher: Tensor, weight: Tensor, name: str) -> Tensor:
    """As one writes it: full logits of both, log-softmax, the library's KL."""
    beta = DIVERGENCES[name][1]
    p = log_softmax(student @ weight.t(), -1)
    q = log_softmax(teacher @ weight.t(), -1)
    if beta == 0.0:
        return kl_div(p, q, reduction="sum", log_target=True)
    m = torch.logsumexp(torch.stack([p + math.log1p(-beta), q + math.log(beta)]), dim=0)
    to_target = kl_div(m, q, reduction="sum", log_target=True)
    to_student = kl_div(m, p, reduction="sum", log_target=True)
    return beta * to_target + (1 - beta) * to_student


def checkpointed(student: Tensor, teacher: Tensor, weight: Tensor, name: str) -> Tensor:
    """The dense form on chunks of rows, whose logits are computed again in the backward pass."""
    parts = zip(student.split(CHUNK), teacher.split(CHUNK), strict=True)
    losses = [checkpoint(dense, s, t, weight, name, use_reentrant=False) for s, t in parts]
    return torch.stack(losses).sum()  # pyright: ignore


def trl(tile: int) -> Loss:
    """TRL's chunked divergence with tiles of so many tokens; its default is 4096."""

    def loss(student: Tensor, teacher: Tensor, weight: Tensor, name: str) -> Tensor:
        default = trl_chunked.TOKEN_CHUNK_SIZE
        trl_chunked.TOKEN_CHUNK_SIZE = tile
        try:
            result: Any = trl_chunked.ChunkedDivergenceFunction.apply(
                student, weight, None, teacher, weight, None, DIVERGENCES[name][1]
            )
            total = result[0].sum()
            # The tile must hold during the backward pass too, so it is run here.
            (gradient,) = torch.autograd.grad(total, student)
        finally:
            trl_chunked.TOKEN_CHUNK_SIZE = default
        return _Given.apply(student, total.detach(), gradient)  # pyright: ignore

    return loss


def liger(student: Tensor, teacher: Tensor, weight: Tensor, name: str) -> Tensor:
    loss = LigerFusedLinearJSDLoss(
        weight_hard_loss=0.0,
        weight_soft_loss=1.0,
        beta=DIVERGENCES[name][1],
        compiled=False,
        chunk_size=CHUNK,
    )
    labels = torch.zeros(len(student), dtype=torch.long)
    return loss(student, weight, teacher, weight, labels) * len(student)


class _Given(torch.autograd.Function):
    """A loss whose gradient is already there."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, total: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        return ctx.saved_tensors[0] * grads[0], None, None


IMPLEMENTATIONS: dict[str, Loss] = {
    OURS: ours,
    "dense": dense,
    "TRL chunked, default tile": trl(trl_chunked.TOKEN_CHUNK_SIZE),
    "TRL chunked, 64": trl(CHUNK),
    "Liger chunked, 64": liger,
    "checkpointed, 64": checkpointed,
}


def peak_bytes(run: Callable[[], None]) -> int:
    """The most bytes that a run's allocations hold at once, from the allocator's own events."""
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        run()
    events: Any = profile.profiler.kineto_results.events()  # type: ignore[union-attr]
    moves = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    live = most = 0
    for _, size in moves:
        live += size
        most = max(most, live)
    return most


def cpu_ms(run: Callable[[], None]) -> float:
    start = time.process_time()
    run()
    return 1e3 * (time.process_time() - start)


def products(run: Callable[[], None], rows: int, vocab: int, hidden: int) -> float:
    """Matrix products with the head per row."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() / (2 * rows * vocab * hidden)


def runs(rows: int, vocab: int, hidden: int, name: str) -> dict[str, Callable[[], None]]:
    """Forward and backward of every implementation on the same rows."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(vocab, hidden, generator=generator) * (2 / math.sqrt(hidden))
    student = torch.randn(rows, hidden, generator=generator)
    teacher = student + 0.3 * torch.randn(rows, hidden, generator=generator)

    def bound(loss: Loss) -> Callable[[], None]:
        def run() -> None:
            leaf = student.clone().requires_grad_()
            loss(leaf, teacher, weight, name).backward()

        return run

    return {label: bound(loss) for label, loss in IMPLEMENTATIONS.items()}


def measure(rows: int, vocab: int, hidden: int, rounds: int, name: str) -> list[dict[str, Any]]:
    """One divergence: a row of time and one of memory per implementation, one of products."""
    every = runs(rows, vocab, hidden, name)
    peaks = {label: peak_bytes(run) for label, run in every.items()}
    times: dict[str, list[float]] = {label: [] for label in every}
    for number in range(rounds):
        for label, run in every.items():
            times[label].append(cpu_ms(run))
        last = ", ".join(f"{label} {ms[-1]:.0f}" for label, ms in times.items())
        print(f"{name}, round {number + 1} of {rounds}, CPU ms: {last}", file=sys.stderr)
    table = []
    for label in every:
        paired = [theirs / own for theirs, own in zip(times[label], times[OURS], strict=True)]
        row: dict[str, Any] = {
            "name": label,
            "divergence": name,
            "rows": rows,
            "vocab": vocab,
            "peak_bytes": peaks[label],
            "cpu_ms": round(statistics.median(times[label]), 1),
        }
        if label == OURS:
            count = products(every[label], rows, vocab, hidden)
            measures = [("head_products", count, 3.0, count == 3.0)]
        else:
            ratio, wanted = peaks[label] / peaks[OURS], PEAK_TARGET.get(label)
            measures = [("peak", ratio, wanted, wanted is None or ratio >= wanted)]
            ratio = statistics.median(paired)
            measures.append(("time", ratio, 1.0, ratio > 1.0))
        for what, ratio, target, ok in measures:
            table.append(
                {**row, "measure": what, "ratio": round(ratio, 3), "target": target, "ok": ok}
            )
    return table


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--vocab", type=int, default=32_000)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    table = [
        row
        for name in DIVERGENCES
        for row in measure(args.rows, args.vocab, args.hidden, args.rounds, name)
    ]
    lines = [json.dumps(row) for row in table]
    print("\n".join(lines))
    if args.json is not None:
        args.json.write_text("\n".join(lines) + "\n", "utf-8")
    return 0 if all(row["ok"] for row in table) else 1


if __name__ == "__main__":
    sys.exit(main())
