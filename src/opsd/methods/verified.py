"""Self-distillation that depends on which rollouts of a group are correct."""

from __future__ import annotations

from opsd.methods.method import Method
from opsd.methods.signals import Advantage, Distill, Sum, Teacher
from opsd.objective.credit import Clipped, GroupNormalised, Shaped
from opsd.objective.divergences import (
    AnyDivergence,
    forward_kl,
    jsd,
    pointwise_clip,
    reverse_kl,
)
from opsd.objective.support import TopK
from opsd.objective.total import Reduction
from opsd.objective.weighting import ImportanceWeight, PassRate
from opsd.prompts.contexts import Feedback, Filtered, OwnPrompt, Solution, Witness
from opsd.rollout.sources import OnPolicy
from opsd.schedule import Number
from opsd.teacher.weights import EMA, Live

_BY_ROLLOUT = Reduction(unit="sequence")
_REWARD = Advantage(GroupNormalised(), Clipped(), reduction=_BY_ROLLOUT)


def sdpo(divergence: AnyDivergence = jsd(0.5), k: int = 100, group: int = 8) -> Method:
    """SDPO: the model, shown a success of its own or what went wrong, grades its other attempts.

    What it is: eight rollouts per problem; a moving average of the student is shown a correct
    sibling, or the verifier's feedback if there is none, and grades the rollout; JSD(0.5) over the
    student's `k` likeliest tokens and a tail, importance ratio at most 2.
    What differs from the paper: the sibling is the next correct rollout. For the trust-region
    teacher, use the target `mixture` of two views, live and frozen. Prompts are our own wording.
    What it needs: a column `answer`, or a verifier that gives feedback.
    One command: opsd train sdpo
    """
    return Method(
        name="sdpo",
        paper="Hübotter et al. 2026, arXiv 2601.20802",
        source=OnPolicy(group=group),
        signal=Distill(
            Teacher(Feedback(), weights=EMA(0.95), support=TopK(k)),
            divergence,
            weighting=(ImportanceWeight(2.0),),
        ),
    )


def ssopd(
    weight: float = 0.5,
    group: int = 8,
    divergence: AnyDivergence = pointwise_clip(forward_kl, 0.05),
) -> Method:
    """SSOPD: GRPO, and in mixed groups the longest failure learns from the shortest success.

    What it is: GRPO, and a second term in groups with correct and wrong rollouts: the model is
    shown the shortest correct rollout and grades the longest wrong one, weighted by 4 p (1 - p),
    where p is the share of correct rollouts; the mean is over all groups.
    What differs from the paper: `weight`, the cap, the group size and the form of the frontier
    weight are ours, since its text was not available.
    What it needs: a column `answer`.
    One command: opsd train ssopd
    """
    witness = Distill(
        Teacher(Witness(), weights=Live()),
        divergence,
        weighting=(PassRate(4.0),),
        reduction=Reduction(unit="group", over="all"),
    )
    return Method(
        name="ssopd",
        paper="Tan and Hong 2026, arXiv 2605.17497",
        source=OnPolicy(group=group),
        signal=Sum(((1.0, _REWARD), (weight, witness))),
    )


def rlsd(eps: float = 0.2, group: int = 8) -> Method:
    """RLSD: the verifier decides whether a rollout is reinforced, the teacher which of its tokens.

    What it is: GRPO with each token's advantage multiplied by the ratio of the teacher's to the
    student's probability (or its inverse, if the advantage is negative), clipped to between 1 -
    `eps` and 1 + `eps`.
    What differs from the paper: only its formula was available; `eps` and the frozen teacher are
    ours.
    What it needs: columns `answer` and `solution`.
    One command: opsd train rlsd
    """
    return Method(
        name="rlsd",
        paper="arXiv 2604.03128 (2026)",
        source=OnPolicy(group=group),
        signal=Advantage(
            Shaped(eps=eps), Clipped(), teacher=Teacher(Solution()), reduction=_BY_ROLLOUT
        ),
    )


def hdpo(weight: float = 1.0, group: int = 8, divergence: AnyDivergence = forward_kl) -> Method:
    """HDPO: GRPO, and self-distillation where GRPO learns nothing: in groups that are all wrong.

    What it is: GRPO; if all rollouts of a problem are wrong, the frozen model, shown the solution,
    grades them.
    What differs from the paper: only the rule was available; `weight` and forward KL are ours.
    What it needs: columns `answer` and `solution`.
    One command: opsd train hdpo
    """
    hopeless = Distill(
        Teacher(Filtered(Solution(), "all_wrong")), divergence, reduction=_BY_ROLLOUT
    )
    return Method(
        name="hdpo",
        paper="arXiv 2603.23871 (2026)",
        source=OnPolicy(group=group),
        signal=Sum(((1.0, _REWARD), (weight, hopeless))),
    )


def paced(group: int = 8, divergence: AnyDivergence = forward_kl) -> Method:
    """PACED: self-distillation weighted towards problems that are neither solved nor hopeless.

    What it is: the frozen model, shown the solution, grades every rollout, weighted by p (1 - p),
    where p is the share of correct rollouts in its group.
    What differs from the paper: only the weight was available; p is estimated from the same group.
    What it needs: columns `answer` and `solution`.
    One command: opsd train paced
    """
    return Method(
        name="paced",
        paper="arXiv 2603.11178 (2026)",
        source=OnPolicy(group=group),
        signal=Distill(Teacher(Solution()), divergence, weighting=(PassRate(),)),
    )


def sdpg(beta: Number = 0.001, alpha: Number = 0.001, group: int = 8) -> Method:
    """SDPG: GRPO, the exact reverse KL to the model shown the answer, and that to the first model.

    What it is: GRPO with a ratio clipped at 0.8 and 1.28, averaged over tokens, and two more terms.
    On rollouts with a positive advantage: `beta` times the reverse KL, over the whole vocabulary,
    to the live model that is shown the answer. On all rollouts: `alpha` times that to the starting
    model.
    What differs from the paper: its released code and project page were read. The reference term is
    the exact KL; the paper's (half the squared log-ratio of the sampled token) has the same
    gradient in expectation. No second clip bounds the loss of wrong rollouts, and groups whose
    outcomes are all equal are not drawn again. The page trains on positive advantages only; the
    code does so if configured. `beta` may be a schedule. Prompts are our own wording.
    What it needs: a column `answer`.
    One command: opsd train sdpg
    """
    told = Filtered(Solution(template="known_answer"), "positive_advantage")
    return Method(
        name="sdpg",
        paper="Liu et al. 2026, arXiv 2606.04036",
        source=OnPolicy(group=group),
        signal=Sum(
            (
                (1.0, Advantage(GroupNormalised(), Clipped(low=0.2, high=0.28))),
                (
                    beta,
                    Distill(
                        Teacher(told, weights=Live()),
                        reverse_kl,
                        reduction=Reduction(over="all"),
                    ),
                ),
                (alpha, Distill(Teacher(OwnPrompt()), reverse_kl)),
            )
        ),
    )
