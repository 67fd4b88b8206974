"""All measurements that need a GPU, in one command with a time limit.

    python -m benchmarks.gpu --minutes 8 --json gpu.json
    python -m benchmarks.gpu --device cpu --shapes tiny --minutes 1

Randomly initialised models of Qwen3-1.7B's shape, LoRA r=64 on every linear layer, bfloat16:

    loss       the exact loss, forward and backward: ours in every form, TRL's, Liger's, dense;
               vocabulary 151,936, 1,024 to 8,192 tokens; ratio to the three bare products
    step       a whole optimizer step on given completions, ours and TRL's SDFT trainer's
    rollouts   tokens per second of the engine `hf`
    attention  packed sequences give the same as padded ones, in rounding errors
    sharded    FSDP2 on one rank takes the same step as the unsharded run
    largest    the most rollouts of 1,024 tokens in one pass, by doubling until memory runs out

Each part has a share of the minutes, and leaves what it does not need to the later parts. Its most
informative cases come first. Measurements run in their own process, which is restarted if it dies
and stopped if its time is up. What is not installed, does not fit or does not finish becomes a row
that says so. All rows are written after each measurement. Times are medians; compilation and tuning
come before them and are reported as `first_s`. The command ends with a table of targets; exit code
1 if one is missed. On a CPU there are no targets. No network is needed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.cases import SIZES, parts
from benchmarks.gpu.verdicts import table, verdicts
from benchmarks.gpu.worker import run
from benchmarks.rows import Row, machine, not_measured, store


def driver() -> str | None:
    """The NVIDIA driver's version."""
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        told = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return told.partition("\n")[0].strip()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--minutes", type=float, default=8, help="for the whole command")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--shapes", choices=list(SIZES), default="real")
    parser.add_argument("--json", type=Path, default=Path("gpu.json"), help="the file for the rows")
    args = parser.parse_args(arguments)
    before: dict[str, Any] = {**machine(), "driver": driver()}
    rows: list[Row] = []

    def keep(row: Row) -> None:
        rows.append({**row, "device": args.device})
        print(json.dumps(rows[-1]), flush=True)
        store(rows, args.json, before)

    asked = parts(SIZES[args.shapes], args.device)
    if args.device == "cuda" and not torch.cuda.is_available():
        for measure, case in ((part.measure, case) for part in asked for case in part.cases):
            keep(not_measured(measure, "no CUDA device", **case))
    else:
        run(asked, 60 * args.minutes, keep)
    judgement = verdicts(rows, args.device == "cuda")
    for row in judgement:
        keep(row)
    print(table(judgement), file=sys.stderr)
    return 0 if all(row["ok"] for row in judgement) else 1


if __name__ == "__main__":
    # For child processes: models are built here, the Hub is not contacted, and of several
    # GPUs one is used.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")
    sys.exit(main())
