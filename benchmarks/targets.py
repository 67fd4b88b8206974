"""The memory of a target with several views: the peak of its step compared with a plain OPSD step.

    python -m benchmarks.targets [--layers 28 --completion 512]

The step, the model's shape and the measure are those of `real_shapes`: a randomly initialised
Qwen3-0.6B with LoRA, one real optimizer step, peak of bytes allocated above the weights. Prints one
JSON row per method; exit code 1 if a step takes more than 1.4 times OPSD's peak.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

from benchmarks.real_shapes import Case, Shape, compare, measured
from opsd.runs.environment import environment
from opsd.runs.files import write_atomically

TARGET = 1.4
METHODS = ("purified_opsd", "barycenter", "beta_opsd")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--layers", type=int, default=Shape.layers)
    parser.add_argument("--completion", type=int, default=Shape.completion)
    parser.add_argument("--json", type=Path, help="also write rows and machine to this file")
    args = parser.parse_args(arguments)
    # Freed memory is returned to the system at once, so resident size follows what is in use.
    os.environ["MALLOC_MMAP_THRESHOLD_"] = os.environ["MALLOC_TRIM_THRESHOLD_"] = "65536"
    case = replace(Case(), shape=replace(Shape(), layers=args.layers, completion=args.completion))
    plain = measured(replace(case, method="opsd"))
    rows = []
    for name in args.methods:
        one = replace(case, method=name)
        rows.append(compare(one, plain, measured(one), TARGET))
        print(json.dumps(rows[-1]), flush=True)
    if args.json is not None:
        write_atomically(args.json, json.dumps({"machine": environment(), "rows": rows}, indent=1))
    return 0 if all(row["ok"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
