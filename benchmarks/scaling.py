"""The cost of a training step as the dataset, the completions and the processes grow.

    python -m benchmarks.scaling [--rounds 3 --json out.json]

*Problems*: CPU seconds of a whole optimizer step on 100 to 100,000 problems in memory, without
loading; the most expensive may cost 1.1 times the cheapest. *Completion*: CPU time per token of the
loss alone and of a whole step, at 64 to 1,024 tokens. *Processes*: the same work in each of one and
two processes (gloo), wall-clock and CPU seconds; reported only. Model, LoRA and given completions
are those of `benchmarks.step`. `benchmarks.loss` measures how the loss grows with tokens and
vocabulary. Exit code 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.loss import Shape, bound, milliseconds
from benchmarks.loss_peers import ours
from benchmarks.rows import Row, finish, in_fresh_process, judged, machine, note
from benchmarks.shapes import network, small
from benchmarks.step import DISTIL, Clock, lora, reward
from benchmarks.words import Given, text, tokenizer
from opsd import OPSDConfig, OPSDTrainer
from opsd.types import Problem

VOCAB, BATCH, FLAT = 4096, 8, 1.1


@dataclass(frozen=True)
class Case:
    """The numbers of problems, the completion lengths in tokens, and the number of timed steps."""

    problems: int = 100
    completion: int = 64
    steps: int = 8


class Clocks(Clock):
    """Also wall-clock seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.wall: list[float] = []

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.wall.append(time.perf_counter())
        super().on_step_end(*args, **kwargs)


def problem(number: int) -> Problem:
    """Prompts of 40 words, solutions of 80. A text is one of a few, plus the problem's number."""
    kind = number % 50
    solution = text(80, VOCAB, 100 + kind)
    return Problem(f"w{number} {text(40, VOCAB, kind)}", "1", privileged={"solution": solution})


def step_seconds(case: Case) -> dict[str, float]:
    """Median seconds of a step except the first, in this process's CPU time and on the wall clock;
    and the minimum."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        args = OPSDConfig(
            output_dir=folder,
            max_steps=case.steps + 1,
            per_device_train_batch_size=BATCH,
            gradient_accumulation_steps=1,
            max_completion_length=case.completion,
            learning_rate=1e-6,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
            trace_steps=0,
        )
        clock = Clocks()
        OPSDTrainer(
            network(small(VOCAB)),
            DISTIL,
            args,
            [problem(number) for number in range(case.problems)],
            processing_class=tokenizer(VOCAB),
            verifier=reward,
            peft_config=lora(),
            engine=Given(VOCAB, [case.completion]),
            callbacks=[clock],
        ).train()
    apart = [after - before for before, after in zip(clock.wall, clock.wall[1:], strict=False)]
    return {
        "cpu_s": statistics.median(clock.seconds),
        "wall_s": statistics.median(apart),
        "least_cpu_s": min(clock.seconds),
    }


def problem_rows(sizes: Sequence[int], rounds: int, steps: int = 8) -> list[Row]:
    """The CPU time of a step over that with the smallest set. Each is the minimum over all steps,
    because other load on the machine can only add to it."""
    seconds: dict[int, list[float]] = {size: [] for size in sizes}
    for number in range(rounds):
        for size in sizes:
            took = in_fresh_process(step_seconds, Case(size, steps=steps))
            seconds[size].append(took["least_cpu_s"])
        note(f"problems, round {number + 1}: {[round(s[-1], 3) for s in seconds.values()]}")
    best = {size: min(s) for size, s in seconds.items()}
    rows = [
        judged("problems", best[n] / best[sizes[0]], problems=n, cpu_s=round(best[n], 4))
        for n in sizes
    ]
    ratio = max(best.values()) / min(best.values())
    return [*rows, judged("problems, dearest over cheapest", ratio, FLAT, ratio <= FLAT)]


def completion_rows(lengths: Sequence[int], rounds: int, steps: int = 3) -> list[Row]:
    """CPU time per completion token over that of the shortest, for the loss alone and for whole
    steps."""
    first: dict[str, float] = {}
    rows = []
    for length in lengths:
        tokens = BATCH * length
        run = bound(ours(64), Shape(tokens, VOCAB, 256, 64), "cpu", "jsd(0.5)")
        run()
        loss = statistics.median(milliseconds(run, "cpu") for _ in range(rounds)) / tokens
        took = in_fresh_process(step_seconds, Case(completion=length, steps=steps))
        step = 1e3 * took["cpu_s"] / tokens
        for name, per_token in (("loss", loss), ("step", step)):
            ratio = per_token / first.setdefault(name, per_token)
            about = {"completion": length, "cpu_ms_per_token": round(per_token, 4)}
            rows.append(judged("completion", ratio, name=name, **about))
        note(f"completions of {length}: {loss:.3f} and {step:.3f} ms per token")
    return rows


def together(ranks: int, case: Case) -> list[dict[str, float]]:
    """The same case in this many processes at once, which average their gradients."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"WORLD_SIZE": ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    shared |= {"OMP_NUM_THREADS": 1}
    words = [sys.executable, "-m", "benchmarks.scaling", "--rank"]
    words += [str(number) for number in (case.problems, case.completion, case.steps)]
    processes = []
    for rank in range(ranks):
        own = shared | {"RANK": rank, "LOCAL_RANK": rank} if ranks > 1 else {}
        environment = os.environ | {name: str(value) for name, value in own.items()}
        processes.append(subprocess.Popen(words, env=environment, stdout=subprocess.PIPE))
    told = [process.communicate(timeout=600)[0] for process in processes]
    return [json.loads(line.splitlines()[-1]) for line in told]


def rank_rows(rounds: int, case: Case) -> list[Row]:
    """The slower of two processes over one alone."""
    pairs = []
    for number in range(rounds):
        (alone,), both = together(1, case), together(2, case)
        slower = {name: max(one[name] for one in both) for name in alone}
        pairs.append((alone, slower))
        note(f"processes, round {number + 1}: {alone}, {slower}")
    return [
        judged(
            "processes",
            statistics.median(both[name] / alone[name] for alone, both in pairs),
            name=name,
            one=round(statistics.median(alone[name] for alone, _ in pairs), 4),
            two=round(statistics.median(both[name] for _, both in pairs), 4),
        )
        for name in ("wall_s", "cpu_s")
    ]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--problems", type=int, nargs="+", default=[100, 1000, 10_000, 100_000])
    parser.add_argument("--completions", type=int, nargs="+", default=[64, 256, 1024])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rank", type=int, nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, help="also write rows and machine to this file")
    args = parser.parse_args(arguments)
    if args.rank:
        print(json.dumps(step_seconds(Case(*args.rank))))
        return 0
    before = machine()
    rows = problem_rows(args.problems, args.rounds)
    rows += completion_rows(args.completions, args.rounds)
    rows += rank_rows(args.rounds, Case(completion=256, steps=5))
    return finish(rows, args.json, before)


if __name__ == "__main__":
    sys.exit(main())
