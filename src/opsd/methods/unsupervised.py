"""Self-distillation without labels: from majority votes, uncertainty, or a careless self."""

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
    """u-OPSD: if most rollouts agree, the shortest of them corrects the longest of the others.

    What it is: `group` rollouts per problem vote by their answers. If the most frequent answer has
    at least a share of `threshold` of the votes, the frozen model is shown the shortest rollout
    with that answer and grades the longest one with another answer; forward KL over the whole
    vocabulary, summands capped.
    What differs from the paper: its text was not available; its rule and settings agree across
    three summaries; the cap of 0.05 is OPSD's. Among equally frequent answers the first one counts,
    whereas the paper draws one. Prompts are our own wording.
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
    """OPSA: no teacher; the student's least likely tokens are made less likely still.

    What it is: one rollout per problem. The `share` of its tokens with the least probability get a
    negative advantage, from `weakest` where the student's entropy is lowest among them to
    `strongest` where it is highest. No other token is trained.
    What differs from the paper: the rule comes from its README and two summaries. There, tokens are
    chosen, and entropies compared, within the micro-batch of a process; here within each rollout,
    so that the gradient depends neither on the number of processes nor on the micro-batches.
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
    """NSD: the student moves away from its own careless self, and stays near the starting model.

    What it is: for each rollout, the model writes how a careless reader would go wrong. Shown that
    text, the frozen model finds some tokens likelier than under the plain prompt. Those tokens are
    made less likely, by a bounded unlikelihood of weight `alpha`. A second term keeps the student
    near the frozen model: KL(frozen || student).
    What differs from the paper: its text was not available; its rule and `alpha` agree across three
    summaries. The KL is exact, over the vocabulary; the paper's is the summand at the sampled
    token. The frozen model writes the text; if it is cut off at `max_tokens`, a fixed instruction
    to be careless replaces it. Both wordings are ours.
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
