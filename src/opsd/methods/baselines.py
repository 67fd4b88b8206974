"""The baselines that self-distillation is compared with."""

from __future__ import annotations

from opsd.methods.method import Method
from opsd.methods.signals import Advantage, Distill, Likelihood, Sum, Teacher
from opsd.objective.credit import Clipped, GroupNormalised
from opsd.objective.divergences import reverse_kl
from opsd.objective.total import Reduction
from opsd.prompts.contexts import OwnPrompt, Solution
from opsd.rollout.sources import FromDataset, KeepCorrect, OnPolicy


def grpo(beta: float = 0.0, group: int = 8, reuse: int = 1) -> Method:
    """GRPO: rewards relative to the group's mean, through a clipped ratio.

    What it is: `group` rollouts per problem, reward 1 for a correct boxed answer, advantages
    normalised within the group, losses averaged within each rollout, then over rollouts; `beta`
    adds the reverse KL to the starting model, `reuse` is the number of optimizer steps per batch.
    What differs from the paper: the KL is exact, over the vocabulary, not estimated from the
    sampled token; the ratio is taken against the log-probabilities at sampling.
    What it needs: a column `answer`.
    One command: opsd train grpo
    """
    sequence = Reduction(unit="sequence")
    reward = Advantage(GroupNormalised(), Clipped(), reduction=sequence)
    stay = Distill(Teacher(OwnPrompt()), reverse_kl, reduction=sequence)
    return Method(
        name="grpo",
        paper="Shao et al. 2024, arXiv 2402.03300",
        source=OnPolicy(group=group),
        signal=Sum(((1.0, reward), (beta, stay))) if beta else reward,
        reuse=reuse,
    )


def sft() -> Method:
    """SFT: maximum likelihood of the dataset's own solutions.

    What it is: the worked solution as the completion, under the student's prompt.
    What differs from the paper: nothing; it is the standard baseline.
    What it needs: a column `solution`.
    One command: opsd train sft
    """
    return Method(
        name="sft",
        paper="Ouyang et al. 2022, arXiv 2203.02155",
        source=FromDataset("solution"),
        signal=Likelihood(),
    )


def star() -> Method:
    """STaR: maximum likelihood of the model's own correct rollouts.

    What it is: one rollout per problem; the student is trained on those that reach the answer. A
    failed problem is tried once more with the solution in the prompt, and trained on without it.
    What differs from the paper: new rollouts are sampled at every step, whereas the paper
    alternates between a pass over the data and fine-tuning from the original model.
    What it needs: columns `answer` and `solution`.
    One command: opsd train star
    """
    return Method(
        name="star",
        paper="Zelikman et al. 2022, arXiv 2203.14465",
        source=KeepCorrect(OnPolicy(), retry=OnPolicy(view=Solution())),
        signal=Likelihood(),
    )


__all__ = ["grpo", "sft", "star"]
