"""Self-distillation from privileged texts other than a reference solution."""

from __future__ import annotations

from opsd.methods.distillation import ANSWERS, THINKS
from opsd.methods.method import Method
from opsd.methods.signals import Distill, Teacher
from opsd.objective.divergences import AnyDivergence, forward_kl, pointwise_clip, reverse_kl
from opsd.objective.support import TopK
from opsd.objective.weighting import SkipFirst
from opsd.prompts.contexts import Demonstration, Document, Instruction, OtherProblem, StudentPrompt
from opsd.teacher.weights import EMA


def sdft(divergence: AnyDivergence = forward_kl) -> Method:
    """SDFT: learning from demonstrations, by distillation from the model that is shown them.

    What it is: a slow moving average of the student, shown a demonstration, grades the student's
    own rollouts; the first three tokens are left out.
    What differs from the paper: its text says reverse KL, its code uses forward KL over the whole
    vocabulary. The default follows the code; `sdft(divergence=reverse_kl)` follows the text.
    What it needs: a column `demonstration` (an answer to the problem).
    One command: opsd train sdft
    """
    return Method(
        name="sdft",
        paper="Shenfeld et al. 2026, arXiv 2601.19897",
        signal=Distill(
            Teacher(Demonstration(of="dataset"), weights=EMA(0.99)),
            divergence,
            weighting=(SkipFirst(3),),
        ),
    )


def opcd(k: int = 100, divergence: AnyDivergence = reverse_kl) -> Method:
    """OPCD: the model learns what a document in the context teaches, and then no longer needs it.

    What it is: the frozen model reads the document before the problem and grades the student, which
    reads only the problem; reverse KL over the student's `k` likeliest tokens and a tail.
    What differs from the paper: only its objective was available; `k` and the prompt are ours.
    What it needs: a column `document`.
    One command: opsd train opcd
    """
    return Method(
        name="opcd",
        paper="arXiv 2602.12275 (2026)",
        signal=Distill(Teacher(Document(), support=TopK(k)), divergence),
    )


def crisp(divergence: AnyDivergence = reverse_kl) -> Method:
    """CRISP: the model learns to be as concise as when it is instructed to be.

    What it is: the frozen model is instructed to be concise and grades the student, which has no
    such instruction; both in thinking mode; reverse KL.
    What differs from the paper: the instruction is our own wording, and the teacher keeps the
    starting weights; `--set method.signal.teacher.weights={type: snapshot}` renews them.
    What it needs: problems; neither solutions nor answers.
    One command: opsd train crisp
    """
    return Method(
        name="crisp",
        paper="arXiv 2603.05433 (2026)",
        student=StudentPrompt(template_options=THINKS),
        signal=Distill(Teacher(Instruction(template_options=THINKS)), divergence),
    )


def op2sd(divergence: AnyDivergence = pointwise_clip(forward_kl, 0.05)) -> Method:
    """OP2SD: OPSD, but the teacher sees another problem with its solution, not this one's solution.

    What it is: as `opsd`, but the frozen model is shown another problem of the set with its
    solution, always the same one per problem. Whatever OPSD gains beyond this comes from seeing the
    problem's own solution.
    What differs from the paper: its abstract and its released assignment of problems were read, not
    its text; the divergence, its cap and the thinking modes are those of `opsd`. The other problem
    is in the same language. Prompts are our own wording.
    What it needs: a column `solution`; a dataset that is not streamed.
    What we measured: with a built-in model and long solutions (docs/claims.md), accuracy -0.00
    (-0.01 to 0.01) as shipped; +0.01 (0.00 to 0.02) with `forward_kl`, without the cap.
    One command: opsd train op2sd
    """
    return Method(
        name="op2sd",
        paper="Ichihara et al. 2026, arXiv 2608.09228",
        student=StudentPrompt(template_options=ANSWERS),
        signal=Distill(Teacher(OtherProblem(template_options=THINKS)), divergence),
    )
