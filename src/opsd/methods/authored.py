"""Self-distillation from texts that an author writes: critiques, rubrics, a peer's feedback."""

from __future__ import annotations

from opsd.authors.authors import ModelAuthor
from opsd.authors.peer import PeerAuthor
from opsd.methods.distillation import ANSWERS, THINKS
from opsd.methods.method import Method
from opsd.methods.signals import Distill, Teacher
from opsd.objective.divergences import AnyDivergence, forward_kl, jsd, pointwise_clip
from opsd.objective.support import TopK
from opsd.objective.weighting import ImportanceWeight
from opsd.prompts.contexts import Critique, Feedback, Rubric, Solution, StudentPrompt
from opsd.rollout.sources import OnPolicy
from opsd.teacher.weights import EMA, AnyWeights, Frozen

_RCSD = "Gu et al. 2026, arXiv 2606.19327"


def step_critique(
    divergence: AnyDivergence = forward_kl,
    critic: AnyWeights | None = None,
    max_tokens: int = 4096,
) -> Method:
    """Step-aligned critique: the teacher reads the rollout itself, corrected from its first error.

    What it is: the student writes numbered steps. A critic copies the correct steps word for word
    and continues with better ones from the first wrong step. The frozen model, shown this critique,
    grades every token of the rollout. Critiques that do not have this form are not used.
    What differs from the paper: its critic is a 32B model; here it is by default the model itself
    (`critic={type: external, path: ...}` selects another model with the same tokenizer). The
    critic's and the teacher's prompts, and the checks, are ours.
    What it needs: problems; if there is a column `solution`, the critic sees it.
    One command: opsd train step_critique
    """
    author = ModelAuthor(
        name="critique",
        template="critic",
        check="critique",
        weights=critic or Frozen(),
        max_tokens=max_tokens,
        template_options=THINKS,
    )
    return Method(
        name="step_critique",
        paper="Kara and Ersoy 2026, arXiv 2606.11173",
        student=StudentPrompt(template="steps", template_options=ANSWERS),
        authors=(author,),
        signal=Distill(Teacher(Critique(template_options=THINKS)), divergence),
    )


def rcsd(
    reference: bool = False,
    k: int = 20,
    divergence: AnyDivergence = pointwise_clip(forward_kl, 0.05),
) -> Method:
    """RCSD: the teacher reads a rubric for judging answers, not the answer.

    What it is: the frozen model, shown a rubric, grades every token of the student's rollout;
    forward KL over its own `k` likeliest tokens, renormalised, summands capped at 0.05.
    What differs from the paper: its released code also shows the reference solution
    (`reference=True`). Rubrics come from a column or from an author: a model trained by
    `rcsd_writer`, given as the path of its run.
    What it needs: a column `rubric`, or authors.
    What we measured: with a built-in model and long solutions (docs/claims.md), accuracy +0.01
    (-0.00 to 0.01) as shipped; +0.24 (0.22 to 0.26) with `forward_kl`, without the cap.
    One command: opsd train rcsd
    """
    return Method(
        name="rcsd",
        paper=_RCSD,
        student=StudentPrompt(template_options=THINKS),
        signal=Distill(
            Teacher(
                Rubric(solution=reference, template_options=THINKS),
                support=TopK(k, by="rubric", rest="renormalise"),
            ),
            divergence,
        ),
    )


def rcsd_writer(divergence: AnyDivergence = forward_kl) -> Method:
    """RCSD's first stage: a model learns to write rubrics from itself, shown the solution.

    What it is: the student writes a rubric for a problem; the frozen model, shown the solution as
    well, grades every token of the rubric. Pass the trained run to `rcsd` as its author.
    What differs from the paper: its released code shows the solution to both roles, and a known
    rubric to the teacher; the default here follows the text.
    What it needs: a column `solution`.
    One command: opsd train rcsd_writer
    """
    return Method(
        name="rcsd_writer",
        paper=f"{_RCSD}, stage I",
        student=StudentPrompt(template="rubric_writer", template_options=ANSWERS),
        signal=Distill(
            Teacher(Solution(template="rubric_writer_told", template_options=ANSWERS)), divergence
        ),
    )


def opcod(
    divergence: AnyDivergence = jsd(0.5),
    k: int = 100,
    group: int = 8,
    min_pass_rate: float = 0.0,
    max_tokens: int = 512,
) -> Method:
    """OPCoD: two models teach each other; each distils from itself, shown the other's feedback.

    What it is: two models with different strengths solve the same problems, eight rollouts each. A
    model that solves a problem writes feedback on the other's attempts: a concept from the
    question, and sentences that do not give the answer away. A moving average of each student,
    shown a correct sibling and that feedback, grades its rollouts, as in `sdpo`. The models
    exchange texts, not probabilities, so their tokenizers may differ.
    What differs from the paper: its text and code were not available. The rule for when a tutor
    knows enough (a correct rollout, and a pass rate of at least `min_pass_rate`), the form of the
    feedback and what is removed from it, every prompt, and SDPO's loss are ours.
    What it needs: two models, named under `peers`; a column `answer`. A model without a peer is
    shown only its correct siblings.
    One command: opsd train opcod
    """
    return Method(
        name="opcod",
        paper="Byeon et al. 2026, arXiv 2606.14368",
        source=OnPolicy(group=group),
        authors=(PeerAuthor(min_pass_rate=min_pass_rate, max_tokens=max_tokens),),
        signal=Distill(
            Teacher(
                Feedback(demonstration="both", author="peer", template="peer_feedback"),
                weights=EMA(0.95),
                support=TopK(k),
            ),
            divergence,
            weighting=(ImportanceWeight(2.0),),
        ),
    )
