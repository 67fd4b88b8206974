"""Self-distillation on the beginning of a rollout."""

from __future__ import annotations

from dataclasses import replace

from opsd.methods.distillation import opsd
from opsd.methods.method import Method
from opsd.objective.divergences import AnyDivergence, forward_kl, pointwise_clip
from opsd.rollout.horizon import Progressive, Truncated
from opsd.rollout.sources import OnPolicy

_PAPER = "Zhang et al. 2026, arXiv 2605.31490"


def topd(rho: float = 0.25, divergence: AnyDivergence = pointwise_clip(forward_kl, 0.05)) -> Method:
    """TOPD: OPSD on the first tokens of a rollout, which is cut there.

    What it is: as `opsd`, with rollouts of at most `rho` of the completion limit.
    What differs from the paper: its teacher is another, trained model and its loss is on the
    sampled token; here the teacher is the model itself, shown the solution. The paper's setting is
    `sampled_token` with this source, teacher weights `{type: external, path: ...}` and context
    `{type: student}`.
    What it needs: a column `solution`.
    One command: opsd train topd
    """
    return replace(
        opsd(divergence), name="topd", paper=_PAPER, source=OnPolicy(horizon=Truncated(rho))
    )


def popd(
    start: int | None = None,
    growth: int | None = None,
    every: int | None = None,
    divergence: AnyDivergence = pointwise_clip(forward_kl, 0.05),
) -> Method:
    """POPD: OPSD with a completion limit that grows during training.

    What it is: as `opsd`, with rollouts of at most `start` tokens, and `growth` more after `every`
    steps.
    What differs from the paper: as with `topd`. The paper does not state its three numbers: by
    default the horizon starts at a tenth of the completion limit and grows by a tenth with every
    tenth of the run.
    What it needs: a column `solution`.
    One command: opsd train popd
    """
    horizon = Progressive(start, growth, every)
    return replace(opsd(divergence), name="popd", paper=_PAPER, source=OnPolicy(horizon=horizon))
