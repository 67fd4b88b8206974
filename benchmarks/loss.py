"""The exact loss against its peers and lower bound: peak memory, time, products with the head.

    python -m benchmarks.loss [--sweep peers floor rows growth] [--json out.json]
    python -m benchmarks.loss --device cuda --rows 8192 --vocab 151936 --hidden 2048 --chunk 512

Every implementation computes the sum of per-token divergences and its gradient with respect to the
student's hidden states, with a frozen head, on the same rows. Rounds are interleaved. Times are
medians: of this process's CPU time on one thread, or between CUDA events. Memory is the peak of
allocated bytes above the start. Prints one JSON row per measurement; exit code 1 if a target is
missed. On a CPU the peers run without their GPU kernels: TRL without Triton, Liger without
compilation. On a GPU everything is bfloat16.

    peers   every implementation on one shape: all must take more memory and more time than ours
    floor   time over that of the three matrix products alone, at hidden size 1024
    rows    the peak is the same for every number of rows (hidden size 16: what is kept for the
            backward pass, [N, D], is then negligible)
    growth  every implementation's peak as the rows grow, over its peak at the fewest rows
    value   a divergence that defines only its value, over the closed form of the same one
    vocab   the peak over one chunk's logits of one stream does not grow with the vocabulary
    chunk   the same for the rows per chunk, and the time over that at the first chunk size
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.loss_peers import DIVERGENCES, Loss, by_value, floor, ours, peers
from benchmarks.rows import Row, finish, machine, not_measured

SWEEPS = ("peers", "floor", "value", "rows", "growth", "vocab", "chunk")
DEFAULT = ["peers", "floor", "rows", "growth"]
FLOOR, FLAT, DENSE, AGREE = 1.5, 1.1, 10.0, 0.02
"""Targets: time over the products', the largest peak over the first, the dense form's peak over
ours, how far another form's gradient may be from the eager one's (bfloat16)."""
VALUE_TIME, VALUE_PEAK = 2.5, 3.0
"""Targets: how much slower and larger autograd may be than a closed form."""


class Shape(NamedTuple):
    """Rows N, vocabulary V, hidden size D, and rows per chunk."""

    rows: int
    vocab: int
    hidden: int
    chunk: int

    def inputs(self, device: str) -> tuple[Tensor, Tensor, Tensor]:
        """Student, teacher and head; bfloat16 on a GPU."""
        drawn = partial(
            torch.randn, device=device, generator=torch.Generator(device).manual_seed(0)
        )
        weight = drawn(self.vocab, self.hidden)
        student = drawn(self.rows, self.hidden)
        teacher = student + 0.3 * drawn(self.rows, self.hidden)
        every = (student, teacher, weight * (2 / math.sqrt(self.hidden)))
        dtype = torch.bfloat16 if device == "cuda" else torch.float32
        student, teacher, weight = (x.to(dtype) for x in every)
        return student, teacher, weight


def bound(loss: Loss, shape: Shape, device: str, name: str) -> Callable[[], Tensor]:
    """Run forward and backward on fixed inputs; returns the gradient."""
    student, teacher, weight = shape.inputs(device)

    def run() -> Tensor:
        leaf = student.clone().requires_grad_()
        loss(leaf, teacher, weight, name).backward()
        assert leaf.grad is not None
        return leaf.grad

    return run


def peak_bytes(run: Callable[[], Any], device: str = "cpu") -> int:
    """The most bytes that a run has allocated at once, from the allocator's records."""
    if device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
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


def milliseconds(run: Callable[[], Any], device: str) -> float:
    if device == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end)
    begun = time.process_time()
    run()
    return 1e3 * (time.process_time() - begun)


def products(run: Callable[[], Any], shape: Shape) -> float:
    """Matrix products with the head per row."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() / (2 * shape.rows * shape.vocab * shape.hidden)


class Measured(NamedTuple):
    """Of one implementation: the milliseconds of every round and its peak, or why they are
    missing."""

    times: list[float]
    peak: int
    why_not: str = ""


def measure(runs: dict[str, Callable[[], Tensor]], device: str, rounds: int) -> dict[str, Measured]:
    """Peaks, then times in interleaved rounds. The first run, which warms up, may fail."""
    made: dict[str, Measured] = {}
    for label, run in runs.items():
        try:
            run()
            made[label] = Measured([], peak_bytes(run, device))
        except Exception as error:  # whatever a peer raises, the others are measured
            made[label] = Measured([], 0, f"{type(error).__name__}: {error}"[:200])
    for _ in range(rounds):
        for label, run in runs.items():
            if not made[label].why_not:
                made[label].times.append(milliseconds(run, device))
    return made


class Bench(NamedTuple):
    """The device, the number of rounds, and the forms of our loss."""

    device: str
    rounds: int
    forms: Sequence[str]

    def ours(self, chunk: int) -> dict[str, Loss]:
        return {f"ours, {form}, {chunk}": ours(chunk, form) for form in self.forms}  # type: ignore

    def measure(self, losses: dict[str, Loss], shape: Shape, name: str) -> dict[str, Measured]:
        runs = {label: bound(loss, shape, self.device, name) for label, loss in losses.items()}
        made = measure(runs, self.device, self.rounds)
        for label, seen in made.items():
            told = seen.why_not or f"{statistics.median(seen.times):.1f} ms, {seen.peak >> 20} MiB"
            print(f"{name} {tuple(shape)} {label}: {told}", file=sys.stderr)
        return made

    def row(self, label: str, name: str, shape: Shape, seen: Measured) -> Row:
        unit = "cpu_ms" if self.device == "cpu" else "gpu_ms"
        row: Row = {"name": label, "divergence": name, **shape._asdict()}
        if seen.why_not:
            return {**row, "measure": "not measured", "why": seen.why_not, "ok": True}
        return {**row, "peak_bytes": seen.peak, unit: round(statistics.median(seen.times), 2)}


def judged(row: Row, what: str, ratio: float, target: float | None, ok: bool) -> Row:
    return {**row, "measure": what, "ratio": round(ratio, 3), "target": target, "ok": ok}


def paired(seen: Measured, base: Measured) -> float:
    """The median over rounds of one time over another's in the same round."""
    return statistics.median(a / b for a, b in zip(seen.times, base.times, strict=True))


def against_peers(bench: Bench, shape: Shape, name: str) -> list[Row]:
    own = bench.ours(shape.chunk)
    others = peers(bench.device, shape.chunk)
    made = bench.measure({**own, **others}, shape, name)
    best = made[list(own)[-1]]
    table = []
    for label, seen in made.items():
        row = bench.row(label, name, shape, seen)
        if seen.why_not:
            # If ours does not run, that is a failure.
            table.append({**row, "ok": label in others})
        elif label in own:
            count = products(bound(own[label], shape, bench.device, name), shape)
            table.append(judged(row, "head_products", count, 3.0, count == 3.0))
            first, gradient = (
                bound(own[x], shape, bench.device, name)() for x in (next(iter(own)), label)
            )
            error = ((gradient - first).abs().max() / first.abs().max()).item()
            table.append(judged(row, "gradient", error, AGREE, error <= AGREE))
        elif not best.why_not:
            ratio, wanted = seen.peak / best.peak, DENSE if label == "dense" else None
            table.append(judged(row, "peak", ratio, wanted, wanted is None or ratio >= wanted))
            ratio = paired(seen, best)
            table.append(judged(row, "time", ratio, 1.0, ratio > 1.0))
    return table


def over_floor(bench: Bench, shape: Shape, name: str) -> list[Row]:
    shape = shape._replace(hidden=max(1024, shape.hidden))
    own = bench.ours(shape.chunk)
    made = bench.measure({**own, "floor": floor(shape.chunk)}, shape, name)
    table = []
    for label in own:
        row = bench.row(label, name, shape, made[label])
        if made[label].why_not:
            table.append({**row, "ok": False})
        else:
            ratio = paired(made[label], made["floor"])
            table.append(judged(row, "floor", ratio, FLOOR, ratio <= FLOOR))
    return table


def over_closed_form(bench: Bench, shape: Shape, name: str) -> list[Row]:
    own = bench._replace(forms=["eager"]).ours(shape.chunk)
    label = f"by its value alone, {shape.chunk}"
    made = bench.measure({**own, label: by_value(shape.chunk)}, shape, name)
    closed, generic = made[next(iter(own))], made[label]
    row = bench.row(label, name, shape, generic)
    if closed.why_not or generic.why_not:
        return [{**row, "ok": False}]
    time, peak = paired(generic, closed), generic.peak / closed.peak
    return [
        judged(row, "time", time, VALUE_TIME, time <= VALUE_TIME),
        judged(row, "peak", peak, VALUE_PEAK, peak <= VALUE_PEAK),
    ]


def flat(bench: Bench, shapes: Sequence[Shape], name: str) -> list[Row]:
    """Per shape, for the last of our forms: its time per logit over that at the first shape, and
    the largest peak, in logits of one chunk and stream, over that at the first shape."""
    bench = bench._replace(rounds=1)  # these times have no target
    table, seen = [], []
    for shape in shapes:
        label, loss = list(bench.ours(shape.chunk).items())[-1]
        made = bench.measure({label: loss}, shape, name)[label]
        row = bench.row(label, name, shape, made)
        if made.why_not:
            table.append({**row, "ok": False})
            continue
        unit = shape.chunk * shape.vocab
        per_logit = statistics.median(made.times) / (shape.rows * shape.vocab)
        seen.append((made.peak / unit, per_logit))
        ratio = seen[-1][1] / seen[0][1]
        table.append(judged(row, "time per logit", ratio, None, True))
    if seen:
        peaks = [peak for peak, _ in seen]
        ratio = max(peaks) / peaks[0]
        table.append(judged(table[-1], "flat peak", ratio, FLAT, ratio <= FLAT))
    return table


def growth(bench: Bench, shapes: Sequence[Shape], name: str) -> list[Row]:
    """Every implementation's peak at each shape over its own at the first shape."""
    table = []
    for label in {**bench.ours(shapes[0].chunk), **peers(bench.device, shapes[0].chunk)}:
        first = 0
        for shape in shapes:
            loss = {**bench.ours(shape.chunk), **peers(bench.device, shape.chunk)}[label]
            seen = bench._replace(rounds=1).measure({label: loss}, shape, name)[label]
            row = bench.row(label, name, shape, seen)
            first = first or seen.peak
            table.append(
                row if seen.why_not else judged(row, "growth", seen.peak / first, None, True)
            )
    return table


def sweep(which: str, bench: Bench, shape: Shape, name: str) -> list[Row]:
    small = shape._replace(hidden=16)
    if which == "peers":
        return against_peers(bench, shape, name)
    if which == "floor":
        return over_floor(bench, shape._replace(rows=min(shape.rows, 256)), name)
    if which == "value":
        return over_closed_form(bench, shape, name)
    if which == "rows":
        return flat(bench, [small._replace(rows=n) for n in (128, 512, 2048, 8192)], name)
    if which == "growth":
        return growth(bench, [shape._replace(rows=n) for n in (128, 256, 512, 1024, 2048)], name)
    if which == "vocab":
        shapes = [small._replace(rows=128, vocab=v) for v in (32_000, 151_936, 262_144)]
        return flat(bench, shapes, name)
    return flat(bench, [small._replace(rows=1024, chunk=c) for c in (16, 64, 256, 1024)], name)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--sweep", nargs="+", choices=SWEEPS, default=DEFAULT)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--vocab", type=int, default=32_000)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--chunk", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--forms", nargs="+", help="of ours; CPU: eager; CUDA: all three")
    parser.add_argument("--json", type=Path, help="also write rows and machine to this file")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    before = machine()
    all_forms = ["eager", "compiled", "triton"] if args.device == "cuda" else ["eager"]
    bench = Bench(args.device, args.rounds, args.forms or all_forms)
    shape = Shape(args.rows, args.vocab, args.hidden, args.chunk)
    if args.device == "cuda" and not torch.cuda.is_available():
        table: list[Row] = [not_measured("loss", "no CUDA device")]
    else:
        table = [
            {"sweep": which, "device": args.device, **row}
            for which in args.sweep
            for name in (DIVERGENCES if which != "growth" else ["jsd(0.5)"])
            for row in sweep(which, bench, shape, name)
        ]
    return finish(table, args.json, before)


if __name__ == "__main__":
    sys.exit(main())
