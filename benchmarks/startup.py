"""How long every command takes to start, and how long training takes until its first step.

    python -m benchmarks.startup [--rounds 3 --rows 100000 --json out.json]

Each command runs in fresh processes, one after another in rounds, compared with `import torch`,
which is the lower bound for a command that needs torch. Numbers are medians of the processes' own
CPU seconds (one thread); wall-clock seconds are given too. `opsd --help` must stay under 0.5 s,
`opsd methods` within 0.5 s of `import torch`.

*Training starts*: a recipe on a JSONL file of 100,000 rows (problem, solution, answer; about 2 KB
each) through `opsd.recipe.train`, in a fresh process: the time from after the imports until the
first step requests its problems, at most 10 s. The memory of the problems, resident size after
loading minus before, must stay under 1 GiB. Exit code 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import os
import random
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.rows import Row, finish, in_fresh_process, judged, machine, note

HELP, OVER_TORCH, START, DATASET = 0.5, 0.5, 10.0, 2**30
"""Targets: seconds of `--help`, of `methods` above torch's, until training starts; bytes."""
COMMANDS = (
    *("--help", "methods", "languages", "env"),
    *("train --help", "evaluate --help", "compare --help", "report --help", "inspect --help"),
    *("grade '\\boxed{4}' --answer 4", "preview quickstart --rows 1"),
    *("report run", "inspect run"),
)
"""`run` is a finished run of two steps."""
PREPARED = "train quickstart --output run --set train.max_steps=2 --set train.trace_steps=1"
OPSD, TORCH = [sys.executable, "-m", "opsd"], [sys.executable, "-c", "import torch"]


class Took(NamedTuple):
    """The CPU time and wall-clock time of a process, in seconds."""

    cpu: float
    wall: float


def timed(words: Sequence[str], folder: Path) -> Took:
    """Run a command in a fresh process. Raises an error if it fails."""
    begun = time.perf_counter()
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            words, cwd=folder, stdout=subprocess.DEVNULL, stderr=errors, env=ENVIRONMENT
        )
        _, status, used = os.wait4(process.pid, 0)
        wall = time.perf_counter() - begun
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            errors.seek(0)
            raise RuntimeError(f"{shlex.join(words)}: {errors.read().decode()[-2000:]}")
    return Took(used.ru_utime + used.ru_stime, wall)


ENVIRONMENT = os.environ | {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    # Bytecode is written, as it is for users: only a first start compiles the sources.
    "PYTHONDONTWRITEBYTECODE": "",
}


def command_rows(rounds: int, wanted: Sequence[str] = COMMANDS) -> list[Row]:
    """The time of every command over that of `import torch`, in the same round."""
    names = ["import torch", *wanted]
    took: dict[str, list[Took]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        if any("run" in name.split() for name in wanted):
            timed([*OPSD, *shlex.split(PREPARED)], folder)
        for number in range(rounds + 1):
            for name in names:
                words = TORCH if name == "import torch" else [*OPSD, *shlex.split(name)]
                took[name].append(timed(words, folder))
            note(f"commands: round {number} of {rounds}")
    # The first round warms up.
    return [row_of(name, took[name][1:], took["import torch"][1:]) for name in names]


def row_of(name: str, took: Sequence[Took], torch: Sequence[Took]) -> Row:
    cpu = statistics.median(t.cpu for t in took)
    above = statistics.median(t.cpu - base.cpu for t, base in zip(took, torch, strict=True))
    ratio = statistics.median(t.cpu / base.cpu for t, base in zip(took, torch, strict=True))
    target, ok = {
        "--help": (f"{HELP} s", cpu <= HELP),
        "methods": (f"{OVER_TORCH} s above import torch", above <= OVER_TORCH),
    }.get(name, (None, True))
    return judged(
        "command",
        ratio,
        target,
        ok,
        name=name if name == "import torch" else f"opsd {name}",
        cpu_s=round(cpu, 3),
        above_torch_s=round(above, 3),
        wall_s=round(statistics.median(t.wall for t in took), 3),
    )


def write_problems(path: Path, rows: int) -> None:
    """A file of generated problems, all different: about 300 characters, and a solution of
    1,700."""
    draw = random.Random(0)
    said = [f"{a} {b} {c} of the {i}th kind." for i, (a, b, c) in enumerate(_phrases(draw))]
    with path.open("w", encoding="utf-8") as file:
        for number in range(rows):
            row = {
                "problem": f"Problem {number}: " + " ".join(draw.choices(said, k=8)),
                "solution": " ".join(draw.choices(said, k=46)) + f" \\boxed{{{number}}}",
                "answer": str(number),
            }
            file.write(json.dumps(row) + "\n")


def _phrases(draw: random.Random) -> list[list[str]]:
    words = ("count", "sum", "birds", "roads", "seven", "triangle", "remainder", "bounded")
    return [draw.choices(words, k=3) for _ in range(1000)]


def recipe(problems: Path) -> Any:
    from opsd.recipe.schema import parse

    return parse(
        {
            "model": "miniature-tiny",
            "method": "opsd",
            "data": {"source": str(problems)},
            "train": {"max_steps": 1, "use_cpu": True, "report_to": [], "disable_tqdm": True},
        }
    )


def loaded(problems: Path) -> dict[str, float]:
    """Seconds until the problems are loaded, and what they added to resident memory."""
    from opsd.data.problems import load_problems

    importlib.import_module("opsd.recipe.train")  # its imports are loaded before the measurement
    asked, before, begun = recipe(problems), resident("VmRSS"), time.perf_counter()
    train_set, _ = load_problems(asked.data)
    seconds = time.perf_counter() - begun
    return {
        "kept": len(train_set),
        "seconds": round(seconds, 2),
        "bytes": resident("VmRSS") - before,
        "peak_bytes": resident("VmHWM") - before,
    }


class Begun(Exception):
    """Raised when the first step requests its problems."""


def started(problems: Path) -> dict[str, float]:
    """Seconds from after the imports until the first step requests its problems; wall-clock and CPU
    time."""
    from opsd.cli.arguments import importing

    with importing():  # as the command does
        from opsd.recipe.train import train
        from opsd.training.trainer import OPSDTrainer

    def begun(self: Any, rows: Any, *args: Any) -> Any:
        next(rows)
        raise Begun

    OPSDTrainer.get_batch_samples = begun  # type: ignore[method-assign]
    clock, cpu = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        try:
            train(recipe(problems), Path(folder) / "run")
        except Begun:
            gc.unfreeze()  # as the command also does
            return {
                "seconds": round(time.perf_counter() - clock, 2),
                "cpu_s": round(time.process_time() - cpu, 2),
            }
    raise RuntimeError("training ended before its first step")


def resident(mark: str) -> int:
    """Resident bytes of this process: VmRSS now, VmHWM at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(mark))


def training_rows(rows: int) -> list[Row]:
    """Training on this many rows: the time until it starts, and the memory of the rows."""
    with tempfile.TemporaryDirectory() as folder:
        problems = Path(folder) / "problems.jsonl"
        write_problems(problems, rows)
        size = problems.stat().st_size
        there, begun = (in_fresh_process(run, problems) for run in (loaded, started))
    note(f"{rows:,} rows: {begun}, {there}")
    ratio, share = begun["cpu_s"] / START, there["bytes"] / DATASET
    about = {"rows": rows, "file_bytes": size}
    return [
        judged("training starts", ratio, "10 s", ratio <= 1, **about, **begun),
        judged("dataset in memory", share, "1 GiB", share <= 1, **about, **there),
    ]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--json", type=Path, help="also write rows and machine to this file")
    args = parser.parse_args(arguments)
    before = machine()
    return finish([*command_rows(args.rounds), *training_rows(args.rows)], args.json, before)


if __name__ == "__main__":
    sys.exit(main())
