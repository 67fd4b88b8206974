"""Masked diffusion language models: self-distillation along their own denoising, and baselines.
Here a "sequence" is a state of the canvas."""

from __future__ import annotations

from opsd.methods.method import Method
from opsd.methods.signals import Advantage, Distill, Likelihood, Teacher
from opsd.objective.credit import Clipped, GroupNormalised, PolicyGradient
from opsd.objective.divergences import AnyDivergence, forward_kl, pointwise_clip, reverse_kl
from opsd.objective.support import AnySupport, TopK
from opsd.objective.total import Reduction
from opsd.objective.weighting import TopTokens
from opsd.prompts.contexts import Filtered, LaterState, Suffix
from opsd.rollout.engine import Decoding
from opsd.rollout.rows import Commits, MeanField, RandomMask, States
from opsd.rollout.sources import Denoise, FromDataset

_BY_STATE = Reduction(unit="sequence")
_ONE, _TWO = (Decoding(block_length=32, tokens_per_step=n) for n in (1, 2))
_SUREST = TopK(20, by="suffix", rest="renormalise")


def d_opsd(
    divergence: AnyDivergence = pointwise_clip(reverse_kl, 0.05),
    support: AnySupport = _SUREST,
    share: float = 0.25,
    decoding: Decoding = _TWO,
    attempts: int = 8,
    reuse: int = 4,
) -> Method:
    """d-OPSD: the model, shown some of its own later tokens, grades the block being written.

    What it is: a completion is written block by block, up to `attempts` times until it is correct.
    In every state of its denoising, the frozen model also sees a `share` of the tokens behind the
    block. Among the block's masked tokens, the student learns the two that the teacher is most
    confident of, by the clipped reverse KL over the teacher's 20 likeliest entries. The states are
    divided into `reuse` parts, one optimizer step each. Completions that stayed wrong are left out.
    What differs from the paper: nothing compared with its code. The code is followed where the text
    says the whole vocabulary and no clip, which is `d_opsd(reverse_kl, Full())`: the clipped loss
    has a minimum away from the teacher, and small models have collapsed under it.
    What it needs: a masked diffusion model; a column `answer`.
    One command: opsd train d_opsd
    """
    return Method(
        name="d_opsd",
        paper="Luo et al. 2026, arXiv 2606.18195",
        source=Denoise(decoding=decoding, rows=States("block"), attempts=attempts),
        signal=Distill(
            Teacher(Filtered(Suffix(share), "right"), support=support),
            divergence,
            weighting=(TopTokens(by="confidence_teacher", count=decoding.tokens_per_step),),
            reduction=_BY_STATE,
        ),
        reuse=reuse,
    )


def dopsd_trajectory(
    divergence: AnyDivergence = forward_kl,
    states: int = 1,
    masked_above: float = 0.25,
    decoding: Decoding = _ONE,
) -> Method:
    """dOPSD: the model at a later state of its own denoising teaches the earlier one.

    What it is: from each completion, `states` states are drawn in which more than `masked_above` of
    the canvas is masked. The frozen model reads the canvas as it was at a later, randomly drawn
    step, and the student learns the masked tokens of the whole canvas by forward KL.
    What differs from the paper: the mean over all later states is estimated by drawing one of them.
    The threshold is ours. To train only on correct completions, use
    `Filtered(LaterState(), "right")` as the context.
    What it needs: a masked diffusion model.
    One command: opsd train dopsd_trajectory
    """
    rows = States("canvas", count=states, masked_above=masked_above)
    return Method(
        name="dopsd_trajectory",
        paper="Dat et al. 2026, arXiv 2607.04428",
        source=Denoise(decoding=decoding, rows=rows),
        signal=Distill(Teacher(LaterState()), divergence, reduction=_BY_STATE),
    )


def trajectory_grpo(
    group: int = 8, states: int | None = None, decoding: Decoding = _TWO, reuse: int = 1
) -> Method:
    """GRPO on denoising steps: the actions are the tokens that each step commits.

    What it is: GRPO whose actions are the tokens that each step commits, given the state before
    that step, with the log-probabilities from that step. `states` limits training to that many
    randomly drawn steps of each completion. The mean is over tokens.
    What differs from the paper: it is a baseline of ours, after trajectory-level policy gradients
    such as TraceRL's; the choice of which tokens a step commits does not enter the ratio.
    What it needs: a masked diffusion model; a column `answer`.
    One command: opsd train trajectory_grpo
    """
    return Method(
        name="trajectory_grpo",
        paper="after Wang et al. 2025, arXiv 2509.06949",
        source=Denoise(group, decoding, Commits(states)),
        signal=Advantage(GroupNormalised(), Clipped()),
        reuse=reuse,
    )


def diffu_grpo(group: int = 6, decoding: Decoding = _TWO, reuse: int = 1) -> Method:
    """diffu-GRPO: GRPO with log-probabilities from one forward pass over a fully masked completion.

    What it is: GRPO; the log-probability of a completion's token is the one that the model predicts
    when the whole completion is masked, and 15 % of the prompt too, drawn again for each of the
    `reuse` steps.
    What differs from the paper: the policy gradient has no ratio and no clip, which have no effect
    in the first of the steps; there is no KL term.
    What it needs: a masked diffusion model; a column `answer`.
    One command: opsd train diffu_grpo
    """
    return Method(
        name="diffu_grpo",
        paper="Zhao et al. 2025, arXiv 2504.12216",
        source=Denoise(group, decoding, MeanField()),
        signal=Advantage(GroupNormalised(), PolicyGradient(), reduction=_BY_STATE),
        reuse=reuse,
    )


def diffusion_sft() -> Method:
    """SFT of a masked diffusion model: LLaDA's loss on the dataset's own solutions.

    What it is: the worked solution on a canvas that is padded with end tokens; a uniformly drawn
    number of its tokens is masked, and their mean negative log-likelihood is the loss.
    What differs from the paper: all canvases of a run have the same length, not that of the longest
    solution in the batch.
    What it needs: a masked diffusion model; a column `solution`.
    One command: opsd train diffusion_sft
    """
    return Method(
        name="diffusion_sft",
        paper="Nie et al. 2025, arXiv 2502.09992",
        source=FromDataset("solution", RandomMask()),
        signal=Likelihood(reduction=_BY_STATE),
    )
