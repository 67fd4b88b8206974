"""`python -m tests.fixed_runs [--write]`."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from tests.fixed_runs import RUNS, STORED, digests, machine, stored, trained

parser = argparse.ArgumentParser()
parser.add_argument("--write", action="store_true", help="Store the digests of this machine.")
write = parser.parse_args().write

with tempfile.TemporaryDirectory() as folder:
    found = {name: digests(trained(name, Path(folder, str(i)))) for i, name in enumerate(RUNS)}
if write:
    everything = {**stored(), machine(): found}
    STORED.write_text(json.dumps(everything, indent=1, sort_keys=True) + "\n", "utf-8")
    sys.exit(f"{sum(map(len, found.values()))} digests are stored for {machine()}")
before = stored().get(machine())
if before is None:
    sys.exit(f"no digests are stored for {machine()}: --write them before a change")
differ = [
    f"{name}: {key} {'is gone' if key not in found[name] else 'differs'}"
    for name, own in before.items()
    for key, digest in own.items()
    if found[name].get(key) != digest
]
print("\n".join(differ) or f"all {sum(map(len, before.values()))} digests are the same")
sys.exit(bool(differ))
