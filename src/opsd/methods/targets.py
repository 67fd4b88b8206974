"""Self-distillation towards a distribution other than the teacher's own."""

from __future__ import annotations

from opsd.methods.distillation import ANSWERS, THINKS
from opsd.methods.method import Method
from opsd.methods.signals import Advantage, Distill, Teacher
from opsd.objective.credit import PolicyGradient, ReturnToGo
from opsd.objective.divergences import AnyDivergence, jsd, reverse_kl
from opsd.objective.support import TopK
from opsd.objective.targets import Barycenter, Mixture, Purified
from opsd.objective.total import Reduction
from opsd.objective.weighting import ImportanceWeight
from opsd.prompts.contexts import (
    Demonstration,
    MultiView,
    OwnPrompt,
    ReferenceOnly,
    Solution,
    StudentPrompt,
)
from opsd.rollout.sources import OnPolicy
from opsd.schedule import Linear
from opsd.teacher.weights import EMA


def purified_opsd(
    beta: float = 1.0, clip: float | None = 10.0, divergence: AnyDivergence = jsd(0.5)
) -> Method:
    """Purified OPSD: the base model, shifted only by what the question adds to the reference.

    What it is: the frozen model reads the rollout three times: with problem and solution, with only
    the solution, and with only the problem. The target is the third distribution times the ratio of
    the first to the second, centred and softly clipped at `clip`; JSD(0.5).
    What differs from the paper: its text was not available; its formulas agree across three
    sources. The padding rows of the vocabulary are excluded before centring. The prompt with only
    the solution is our own wording.
    What it needs: a column `solution`.
    What we measured: with a built-in model and long solutions (docs/claims.md), accuracy -0.00
    (-0.03 to 0.03); no learning rate of four was better.
    One command: opsd train purified_opsd
    """
    views = (Solution(template_options=THINKS), ReferenceOnly(template_options=THINKS), OwnPrompt())
    return Method(
        name="purified_opsd",
        paper="Shen et al. 2026, arXiv 2607.02234",
        student=StudentPrompt(template_options=ANSWERS),
        signal=Distill(Teacher(MultiView(views), target=Purified(beta, clip)), divergence),
    )


def demopsd(alpha_max: float = 0.15, beta: float = 50.0, k: int = 100, group: int = 8) -> Method:
    """DemoPSD: a teacher shown the student's own success, damped where the two disagree.

    What it is: eight rollouts per problem; a correct one is shown to a moving average of the
    student, which grades the others. The further apart the average's distributions with and without
    that view are, the closer the target is to the latter (`alpha_max`, `beta`); reverse KL over the
    student's `k` likeliest tokens and a tail, importance ratio at most 2.
    What differs from the paper: the sibling is the next correct rollout, not a random one, and
    never the graded rollout itself.
    What it needs: a column `answer`.
    One command: opsd train demopsd
    """
    return Method(
        name="demopsd",
        paper="Li et al. 2026, arXiv 2607.02502",
        source=OnPolicy(group=group),
        signal=Distill(
            Teacher(
                MultiView((Demonstration(), OwnPrompt())),
                weights=EMA(0.95),
                support=TopK(k),
                target=Barycenter(alpha_max, beta),
            ),
            reverse_kl,
            weighting=(ImportanceWeight(2.0),),
        ),
    )


def beta_opsd(
    start: float = 0.5, end: float = 0.8, steps: int = 200, gamma: float = 0.99
) -> Method:
    """beta-OPSD: a teacher-student mixture that moves to the teacher, with return-to-go credit.

    What it is: the target pools teacher and student, with the teacher's weight rising from `start`
    to `end` in `steps`; each sampled token's advantage is the discounted sum of log target - log
    student from that token to the rollout's end.
    What differs from the paper: nothing known; prompts are our own wording.
    What it needs: a column `solution`.
    One command: opsd train beta_opsd
    """
    rising, falling = Linear(start, end, steps), Linear(1 - start, 1 - end, steps)
    return Method(
        name="beta_opsd",
        paper="arXiv 2607.28582 (2026)",
        student=StudentPrompt(template_options=ANSWERS),
        signal=Advantage(
            credit=ReturnToGo(gamma),
            surrogate=PolicyGradient(),
            teacher=Teacher(
                Solution(template_options=THINKS), target=Mixture((rising,), student=falling)
            ),
            reduction=Reduction(unit="sequence"),
        ),
    )
