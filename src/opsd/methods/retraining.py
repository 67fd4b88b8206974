"""Retraining on everything that the model itself has written, without filtering."""

from __future__ import annotations

from opsd.methods.method import Method
from opsd.methods.signals import Likelihood
from opsd.rollout.sources import OnPolicy
from opsd.teacher.weights import Frozen, Projected


def ssd() -> Method:
    """SSD: likelihood of the model's own completions, right or wrong.

    What it is: the starting model writes one completion per problem, at the recipe's temperature
    and truncation, and the student learns it. At temperature 1 without truncation the student can
    only gain noise: plain self-retraining, a control.
    What differs from the paper: completions are generated when their problem comes up, again in
    each epoch; the temperature and truncation of our recipe are ours.
    What it needs: problems alone.
    One command: opsd train ssd
    """
    return Method(
        name="ssd",
        paper="arXiv 2604.01193 (2026)",
        source=OnPolicy(weights=Frozen()),
        signal=Likelihood(),
    )


def spd(share: float = 0.5, examples: int = 50) -> Method:
    """SPD: likelihood of completions that the model wrote while projected onto what answers need.

    What it is: the gradients of the answers' likelihood, in `examples` solutions, span a subspace
    of the keys and values of two layers. The starting model, projected onto the leading `share` of
    it, writes one completion per problem, and the plain student learns it, right or wrong.
    What differs from the paper: completions are generated when their problem comes up, again in
    each epoch; the projection acts before the rotary embedding, where it can be folded into the
    weights; the rule for which tokens belong to the answer is ours, and the prompt is not learned.
    What it needs: a column `solution` for the first problems.
    One command: opsd train spd
    """
    return Method(
        name="spd",
        paper="Hao et al. 2026, arXiv 2605.22675",
        source=OnPolicy(weights=Projected(share, examples)),
        signal=Likelihood(),
    )
