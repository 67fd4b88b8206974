"""Self-distillation of a masked diffusion model compared with its baselines.

    python -m benchmarks.diffusion [--arms base d-OPSD ... --seeds 0 1 2 --runs kept.jsonl]

Every arm fully fine-tunes the built-in diffusion model, which decodes in blocks of four, for 40
steps of at most 64 rollouts (or references). It is then tested greedily on 1,000 problems. `ratio`
is an arm's fraction of right answers divided by the base model's; there are no targets.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

from benchmarks.arms import Arm, Contest, main
from opsd import methods
from opsd.methods import Method
from opsd.methods.signals import Distill
from opsd.objective.divergences import reverse_kl
from opsd.objective.support import Full
from opsd.prompts.contexts import Filtered, LaterState
from opsd.rollout.engine import Decoding

BLOCKS = Decoding(block_length=4, tokens_per_step=2)
# Two tries for 32 problems: at most as many rollouts as in the other arms.
TRIED: dict[str, Any] = {"decoding": BLOCKS, "reuse": 1, "attempts": 2}


def gated_dopsd() -> Method:
    """dOPSD on four states, only of correct completions."""
    method = methods.dopsd_trajectory(states=4, masked_above=0.0, decoding=BLOCKS)
    signal = method.signal
    assert isinstance(signal, Distill)
    teacher = replace(signal.teacher, context=Filtered(LaterState(), "right"))
    return replace(method, signal=replace(signal, teacher=teacher))


ARMS = {
    "d-OPSD": Arm(lambda: methods.d_opsd(reverse_kl, Full(), **TRIED), 32),
    "d-OPSD, all of the suffix": Arm(
        lambda: methods.d_opsd(reverse_kl, Full(), share=1.0, **TRIED), 32
    ),
    "d-OPSD, clipped": Arm(lambda: methods.d_opsd(**TRIED), 32),
    "dOPSD": Arm(gated_dopsd, 64),
    "trajectory GRPO": Arm(lambda: methods.trajectory_grpo(decoding=BLOCKS), 64),
    "diffu-GRPO": Arm(lambda: methods.diffu_grpo(group=8, decoding=BLOCKS), 64),
    "SFT": Arm(methods.diffusion_sft, 64),
}
CONTEST = Contest("miniature-diffusion", ARMS, steps=40, learning_rate=1e-4, temperature=0.9)

if __name__ == "__main__":
    sys.exit(main(CONTEST, __doc__))
