"""On-policy self-distillation from a reference solution, and its closest relatives."""

from __future__ import annotations

from opsd.methods.method import Method
from opsd.methods.signals import Advantage, Distill, Likelihood, Teacher
from opsd.objective.credit import LogRatio, PolicyGradient
from opsd.objective.divergences import AnyDivergence, forward_kl, jsd, pointwise_clip
from opsd.objective.total import Reduction
from opsd.prompts.contexts import Solution, StudentPrompt
from opsd.rollout.sources import OnPolicy
from opsd.teacher.weights import Frozen

_PAPER = "Zhao et al. 2026, arXiv 2601.18734"
THINKS = {"enable_thinking": True}
ANSWERS = {"enable_thinking": False}


def opsd(divergence: AnyDivergence = pointwise_clip(forward_kl, 0.05)) -> Method:
    """OPSD, third version: the frozen model, shown the reference solution, grades every token.

    What it is: one rollout per problem; forward KL from the teacher's full next-token distribution,
    every vocabulary summand capped at 0.05; student without thinking mode, teacher with it.
    What differs from the paper: tokens are averaged over the whole step, whereas the released code
    averages per micro-batch; the padding rows of the vocabulary are excluded. The prompts are our
    own wording, and the student's has no label before the problem.
    What it needs: a column `solution`.
    What we measured: with a built-in model and long solutions (docs/claims.md), accuracy +0.04
    (0.01 to 0.06) as shipped; +0.25 (0.23 to 0.27) with `reverse_kl`, +0.24 (0.22 to 0.26) by
    `opsd_v1`.
    One command: opsd train opsd
    """
    return Method(
        name="opsd",
        paper=f"{_PAPER}v3",
        student=StudentPrompt(template_options=ANSWERS),
        signal=Distill(Teacher(Solution(template_options=THINKS)), divergence),
    )


def opsd_v1(divergence: AnyDivergence = jsd(0.5)) -> Method:
    """OPSD, first version: the Jensen-Shannon divergence, both roles in thinking mode.

    What it is: as `opsd`, with JSD(0.5), no clip, and every rollout weighted equally.
    What differs from the paper: its first code dropped the student's chat template before sampling;
    here the template is kept, as the text intends. The prompts are our own wording.
    What it needs: a column `solution`.
    One command: opsd train opsd_v1
    """
    return Method(
        name="opsd_v1",
        paper=f"{_PAPER}v1",
        student=StudentPrompt(template_options=THINKS),
        signal=Distill(
            Teacher(Solution(template_options=THINKS)),
            divergence,
            reduction=Reduction(unit="sequence"),
        ),
    )


def sampled_token() -> Method:
    """Sampled-token distillation: the teacher's log-ratio on the sampled token as its advantage.

    What it is: policy gradient with A = log teacher - log student, no ratio, no clip, no group; an
    unbiased but noisier estimate of the gradient of the reverse KL.
    What differs from the paper: each rollout's mean is averaged, as in its Eq. 9; the released code
    averages tokens.
    What it needs: a column `solution`.
    One command: opsd train sampled_token
    """
    return Method(
        name="sampled_token",
        paper=f"{_PAPER}v3, Eq. 8-9",
        student=StudentPrompt(template_options=ANSWERS),
        signal=Advantage(
            credit=LogRatio(),
            surrogate=PolicyGradient(),
            teacher=Teacher(Solution(template_options=THINKS)),
            reduction=Reduction(unit="sequence"),
        ),
    )


def off_policy_distillation(
    divergence: AnyDivergence = forward_kl, likelihood: bool = False
) -> Method:
    """Off-policy distillation: the teacher writes with the solution in view, the student follows.

    What it is: the frozen model samples from the privileged prompt; the student learns those
    completions under its own prompt, from the teacher's full distribution or (`likelihood`) from
    the text alone.
    What differs from the paper: a baseline of the field, not one paper's setting.
    What it needs: a column `solution`.
    One command: opsd train off_policy_distillation
    """
    context = Solution(template_options=ANSWERS)
    return Method(
        name="off_policy_distillation",
        paper="Hinton et al. 2015, arXiv 1503.02531; Kim and Rush 2016, arXiv 1606.07947",
        source=OnPolicy(view=context, weights=Frozen()),
        student=StudentPrompt(template_options=ANSWERS),
        signal=Likelihood() if likelihood else Distill(Teacher(context), divergence),
    )
