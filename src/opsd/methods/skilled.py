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
    """SGSD: teachers that are told skills and mistakes, heeded as the verifier bears them out.

    What it is: the `k` pairs of a skill bank that fit the problem best make as many readings of the
    rollout by the model itself. A reading that on the whole favours a right rollout, or disfavours
    a wrong one, is followed, through a gate that outliers do not pass; one that does the opposite
    is shunned; shares are a softmax of similarity. New items are learned from the run.
    What differs from the paper: its code was read, its text was not to be had. Without `bank` the
    run begins with none and learns its own, where the paper merges those of 256 problems first. The
    wording of prompts is ours.
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
