"""Self-distillation from skills and common mistakes."""

from __future__ import annotations

from opsd.authors.skill_bank import BankUpdate, SkillAuthor
from opsd.methods.distillation import ANSWERS, THINKS
from opsd.methods.method import Method
from opsd.methods.signals import Advantage, Teacher
from opsd.objective.credit import Gated, PolicyGradient
from opsd.objective.targets import PerView
from opsd.objective.total import Reduction
from opsd.objective.weighting import SkipSpecialTokens
from opsd.prompts.contexts import Skills, StudentPrompt
from opsd.teacher.weights import Live


def sgsd(bank: str | None = None, k: int = 8, tau: float = 1.0, dead_zone: float = 0.05) -> Method:
    """SGSD: teachers shown skills and mistakes, followed as far as the verifier confirms them.

    What it is: for each of the `k` pairs from a skill bank that fit the problem best, the model
    itself, shown the pair, reads the rollout. A reading that on the whole favours a correct
    rollout, or disfavours a wrong one, is followed, through a gate that suppresses outliers. The
    student moves away from a reading that does the opposite. The readings are weighted by a softmax
    of similarity. New items are learned from the run.
    What differs from the paper: its code was read, its text was not available. Without `bank` the
    run starts with an empty bank and learns its own, whereas the paper first merges those of 256
    problems. The wording of prompts is ours.
    What it needs: a column `answer`; the extra `skills` for retrieval by embedding.
    One command: opsd train sgsd
    """
    return Method(
        name="sgsd",
        paper="Huang et al. 2026, arXiv 2605.28791",
        student=StudentPrompt(template_options=ANSWERS),
        authors=(SkillAuthor(bank, k, update=BankUpdate()),),
        signal=Advantage(
            credit=Gated(tau, dead_zone=dead_zone),
            surrogate=PolicyGradient(),
            teacher=Teacher(Skills(template_options=THINKS), weights=Live(), target=PerView()),
            weighting=(SkipSpecialTokens(),),
            reduction=Reduction(unit="sequence"),
        ),
    )
