"""Self-distillation across languages."""

from __future__ import annotations

from opsd.methods.method import Method
from opsd.methods.signals import Distill, Teacher
from opsd.objective.divergences import AnyDivergence, forward_kl, pointwise_clip
from opsd.prompts.contexts import Crosslingual, StudentPrompt

_THINKS = {"enable_thinking": True}
_PREFIX = "<think>\n{{ think_prefix }}"


def copsd(divergence: AnyDivergence = pointwise_clip(forward_kl, 0.05)) -> Method:
    """COPSD: the teacher also reads the problem and its solution in a language it is strong in.

    What it is: the student reasons about a problem in its own language; the frozen model, shown the
    English problem and solution as well, grades every token. A prefix makes both think in the
    student's language; it counts neither in the loss nor in the token budget.
    What differs from the paper: its text says reverse KL, its released code uses forward KL with
    summands capped at 0.05. The default follows the code; `copsd(divergence=reverse_kl)` follows
    the text. The prompts are our own wording, and the student's has no label before the problem.
    What it needs: columns `translation` (the English problem) and `solution`, and a language.
    What we measured: with a built-in model in Swahili and Yoruba (docs/claims.md), accuracy +0.09
    (0.06 to 0.12) as shipped; +0.40 (0.35 to 0.45) with `forward_kl`, without the cap; +0.46 (0.41
    to 0.51) with `reverse_kl`.
    One command: opsd train copsd
    """
    return Method(
        name="copsd",
        paper="Liu et al. 2026, arXiv 2605.09548",
        student=StudentPrompt(template_options=_THINKS, prefill=_PREFIX),
        signal=Distill(
            Teacher(Crosslingual(template_options=_THINKS, prefill=_PREFIX)), divergence
        ),
    )
