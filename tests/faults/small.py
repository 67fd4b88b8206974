"""The command line with a quickstart and a claim that take seconds: `python -m tests.faults.small`
is `opsd`, but for their sizes."""

from __future__ import annotations

from opsd.experiments import quickstart, study
from opsd.experiments.study import Scored, Source, Study

PLAN = quickstart.Plan(languages=("swa",), seeds=(0,), problems=4, tokens=700)
SMALLEST = {
    **{"languages": ("swa",), "tokens": 300, "checkpoints": (0.5, 1.0), "early": 0.5},
    **{"seeds": 2, "rates": (1e-4,), "budgets": ()},
    **{"dev": Scored(problems=3, samples=1), "test": Scored(problems=3, samples=2)},
}


def smallest() -> dict[str, Study]:
    """The first comparison of all, on little."""
    whole = study.studies()["miniature"]
    name, source, claim = next(whole.claims())
    own = claim.model_copy(update={"shown": ()})
    papers = (Source(title=source.title, claims={name: own}),)
    arms = {arm: whole.arms[arm] for arm in whole.arms_of(own)}
    none = Source(title="none", claims={})
    changed = {"arms": arms, "papers": papers, "questions": none} | SMALLEST
    return {"miniature": whole.model_copy(update=changed)}


def main() -> None:
    from opsd.cli.commands import main

    quickstart.SHORT = PLAN
    small = smallest()
    study.studies = lambda: small
    main()


if __name__ == "__main__":
    main()
