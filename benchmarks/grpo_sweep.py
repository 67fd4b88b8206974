"""How the quickstart's GRPO was tuned: learning rates x group sizes x seeds, compared on dev.

    python -m benchmarks.grpo_sweep        about ten minutes on two cores

Writes `benchmarks/results/grpo_sweep.json`: the dev score of every arm after the same number of
generated tokens, and the mean of each setting. The shipped recipe `quickstart-grpo` uses the best
one. COPSD gets the same sweep over learning rates, so that neither method is favoured.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
from pathlib import Path
from statistics import fmean
from typing import Any

from opsd.experiments.arms import Arm, ArmScores
from opsd.experiments.quickstart import run_arms
from opsd.runs.environment import environment
from opsd.runs.files import write_atomically

RATES = (3e-5, 1e-4, 3e-4, 1e-3)
GROUPS = (4, 8)
SEEDS = (0, 1, 2)
TOKENS = 24_000
RESULTS = Path(__file__).parent / "results" / "grpo_sweep.json"


def planned(languages: list[str], output: str) -> list[Arm]:
    """All arms of the sweep."""
    common: dict[str, Any] = {
        "tokens": TOKENS,
        "problems": 60,
        "output": output,
        "split": "dev",
    }
    arms = []
    for language, seed, rate in itertools.product(languages, SEEDS, RATES):
        lr = f"train.learning_rate={rate}"
        arms.append(Arm(language, "copsd", seed, settings=(lr,), **common))
        for group in GROUPS:
            settings = (lr, f"method.group={group}")
            arms.append(Arm(language, "grpo", seed, settings=settings, **common))
    return arms


def summary(outcomes: list[ArmScores]) -> list[dict[str, Any]]:
    """One row per method and setting: dev avg@4, mean over languages and seeds; best first."""
    keys = dict.fromkeys((o.arm.method, o.arm.settings) for o in outcomes)
    rows = []
    for method, settings in keys:
        group = [o for o in outcomes if (o.arm.method, o.arm.settings) == (method, settings)]
        scores = [o.row()["avg@4"] for o in group]
        rows.append(
            {
                "method": method,
                "settings": list(settings),
                "avg@4": fmean(scores),
                "lowest": min(scores),
                "highest": max(scores),
                "arms": len(scores),
            }
        )
    return sorted(rows, key=lambda row: (row["method"], -row["avg@4"]))


def main() -> None:
    parser = argparse.ArgumentParser(description="Sweeps learning rates and group sizes.")
    parser.add_argument("--language", nargs="+", default=["swa"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as output:
        outcomes = run_arms(planned(options.language, output))
    rows = summary(outcomes)
    stored = {
        "command": "python -m benchmarks.grpo_sweep --language " + " ".join(options.language),
        "machine": environment(),
        "settings": rows,
        "arms": [{**o.row(), "settings": list(o.arm.settings)} for o in outcomes],
    }
    write_atomically(RESULTS, json.dumps(stored, indent=1))
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
