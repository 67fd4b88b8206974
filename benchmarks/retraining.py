"""A model retrained on its own completions: plain, truncated, and projected (SPD).

    python -m benchmarks.retraining [--arms base plain ... --seeds 0 1 2 --runs kept.jsonl]

The built-in world's long model is fully fine-tuned for 40 steps on 32 of its own completions each,
right or wrong, and then tested on 1,000 problems at temperature 1. `ratio` is an arm's fraction of
right answers divided by the base model's; there are no targets.
"""

from __future__ import annotations

import sys
from dataclasses import replace

from benchmarks.arms import Arm, Contest, main
from opsd import methods
from opsd.methods import Method
from opsd.rollout.sources import OnPolicy
from opsd.teacher.weights import Projected

SHARP = {"temperature": 0.7, "top_p": 0.95}


def without_mask() -> Method:
    """SPD with the subspace of all tokens of a solution."""
    return replace(methods.spd(), source=OnPolicy(weights=Projected(over="solution")))


ARMS = {
    "plain": Arm(methods.ssd, 32),
    "SSD": Arm(methods.ssd, 32, SHARP),
    "SPD": Arm(methods.spd, 32, SHARP),
    "SPD, all tokens": Arm(without_mask, 32, SHARP),
    "SPD at temperature 1": Arm(methods.spd, 32),
}
CONTEST = Contest(
    "miniature-long", ARMS, steps=40, learning_rate=1e-4, temperature=1.0, tested_at=1.0
)

if __name__ == "__main__":
    sys.exit(main(CONTEST, __doc__))
