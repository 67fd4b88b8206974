"""The command line with a quickstart and a claim that take seconds: `python -m tests.faults.small`
is `opsd`, but for their sizes."""

from __future__ import annotations

from opsd.experiments import claim, quickstart
from opsd.experiments.claim import Claim, ClaimArm

PLAN = quickstart.Plan(languages=("swa",), seeds=(0,), problems=4, tokens=700)
SMALLEST = {"tokens": 300, "problems": 3, "samples": 2, "points": (0.5, 1.0), "budgets": ()}


def claims(names: list[str]) -> list[Claim]:
    """The first comparison of all, on little."""
    whole = claim.claims()["copsd_over_grpo"]
    arms = {name: ClaimArm(**arm.model_dump() | SMALLEST) for name, arm in whole.arms.items()}
    arms = {name: arm.model_copy(update={"languages": ("swa",)}) for name, arm in arms.items()}
    return [whole.model_copy(update={"arms": arms})]


def main() -> None:
    from opsd.cli.commands import main

    quickstart.SHORT = PLAN
    claim.chosen = claims
    main()


if __name__ == "__main__":
    main()
