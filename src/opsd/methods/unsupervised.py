"""Self-distillation without labels: from agreement, from doubt, and away from carelessness."""

from __future__ import annotations

from opsd.authors.authors import ModelAuthor
from opsd.methods.distillation import ANSWERS
from opsd.methods.method import Method
from opsd.methods.signals import Advantage, Distill, Sum, Teacher
from opsd.objective.credit import (
    BoundedUnlikelihood,
    EntropyAdaptive,
    NegativeGate,
    PolicyGradient,
)
from opsd.objective.divergences import AnyDivergence, forward_kl, pointwise_clip
from opsd.objective.targets import PerView
from opsd.objective.weighting import TopTokens
from opsd.prompts.contexts import Careless, Majority, MultiView, OwnPrompt, StudentPrompt
from opsd.rollout.sources import OnPolicy


def u_opsd(
    threshold: float = 0.5,
    group: int = 8,
    divergence: AnyDivergence = pointwise_clip(forward_kl, 0.05),
) -> Method:
    """u-OPSD: where most rollouts agree, the shortest of them corrects the longest that does not.

    What it is: `group` rollouts per problem vote by their answers. If the most frequent answer has
    at least `threshold` of them, the frozen model is shown the shortest rollout with it and grades
    the longest with another one; forward KL over the whole vocabulary, summands capped.
    What differs from the paper: its text was not to be had, its rule and settings agree across
    three summaries; the cap of 0.05 is OPSD's. Of answers given equally often the first counts,
    where the paper draws one. Prompts are our own wording.
    What it needs: problems; neither solutions nor answers.
    One command: opsd train u_opsd
    """
    return Method(
        name="u_opsd",
        paper="Li et al. 2026, arXiv 2608.06296",
        source=OnPolicy(group=group),
        student=StudentPrompt(template_options=ANSWERS),
        signal=Distill(
            Teacher(Majority(threshold=threshold, template_options=ANSWERS)), divergence
        ),
    )


def opsa(share: float = 0.2, weakest: float = -0.5, strongest: float = -1.0) -> Method:
    """OPSA: no teacher; what the student found least likely is made less likely, most in doubt.

    What it is: one rollout per problem; the `share` of its tokens with the least probability have a
    negative advantage, from `weakest` where the student's entropy is least among them to
    `strongest` where it is greatest. No other token is taught.
    What differs from the paper: the rule is its README's and two summaries'. There tokens are
    chosen, and entropies compared, within the micro-batch of a process; here within each rollout,
    so that neither processes nor passes change a gradient.
    What it needs: problems; neither solutions nor answers.
    One command: opsd train opsa
    """
    tokens = TopTokens(share, by="surprisal_student")
    return Method(
        name="opsa",
        paper="Ding and Zhang 2026, arXiv 2608.31046",
        student=StudentPrompt(template_options=ANSWERS),
        signal=Advantage(EntropyAdaptive(tokens, weakest, strongest), PolicyGradient()),
    )


def nsd(alpha: float = 0.01, max_tokens: int = 256) -> Method:
    """NSD: away from the model's own careless self, near to the model that it was.

    What it is: the model writes, for the rollout at hand, in which way a careless reader would go
    wrong. Reading that, the frozen model finds some tokens likelier than under the plain prompt:
    those are made less likely, by a bounded unlikelihood of weight `alpha`. A second term keeps the
    student at the frozen model: KL(frozen || student).
    What differs from the paper: its text was not to be had, its rule and `alpha` agree across three
    summaries. The KL is the exact one over the vocabulary, theirs is its summand at the sampled
    token. Who writes is the frozen model; where its text is cut off at `max_tokens`, a fixed wish
    to be careless takes its place. Both wordings are ours.
    What it needs: problems; neither solutions nor answers.
    One command: opsd train nsd
    """
    writer = ModelAuthor(
        name="careless",
        template="careless_writer",
        max_tokens=max_tokens,
        template_options=ANSWERS,
    )
    careless = Careless(template_options=ANSWERS)
    avoid = Advantage(
        NegativeGate(),
        BoundedUnlikelihood(),
        teacher=Teacher(MultiView((careless, OwnPrompt())), target=PerView()),
    )
    return Method(
        name="nsd",
        paper="Pei et al. 2026, arXiv 2609.11699",
        student=StudentPrompt(template_options=ANSWERS),
        authors=(writer,),
        signal=Sum(((1.0, Distill(Teacher(OwnPrompt()), forward_kl)), (alpha, avoid))),
    )


__all__ = ["nsd", "opsa", "u_opsd"]
