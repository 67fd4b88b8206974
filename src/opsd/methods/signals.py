"""What every token is told: distillation, advantage, likelihood, and sums of them.

A signal makes a `Term` for the fused loop out of a teacher's views, and turns the term's values
[N] into losses [N]. It never reduces; `total.py` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from opsd.objective.credit import AnyCredit, AnySurrogate, Clipped, Gated, GroupNormalised
from opsd.objective.divergences import AnyDivergence, forward_kl
from opsd.objective.head import View
from opsd.objective.support import AnySupport, Full
from opsd.objective.table import TokenTable
from opsd.objective.targets import AnyTarget, PerView, Purified, Single
from opsd.objective.terms import ChunkDivergence, ChunkLogProb, Term
from opsd.objective.weighting import AnyWeighting
from opsd.parts import part
from opsd.prompts.contexts import Context
from opsd.schedule import Number
from opsd.teacher.weights import AnyWeights, Frozen

Temperature = Annotated[float, Field(ge=0.001)] | Literal["sampling"]


@part
class Reduction:
    """How token losses become one number.

    `unit="token"` averages over tokens, `"sequence"` averages each rollout's mean, `"group"` each
    group's mean, `"constant"` divides each rollout's sum by the completion limit (Dr. GRPO).
    A unit's mean is over the tokens that this signal teaches; `over="taught"` counts the units of
    which it teaches any, `"all"` every unit of the step.
    """

    unit: Literal["token", "sequence", "group", "constant"] = "token"
    over: Literal["taught", "all"] = "taught"
    type: Literal["reduction"] = "reduction"


@part
class Teacher:
    """Who teaches: what it reads, with which weights, over which entries, towards what target."""

    context: Context
    weights: AnyWeights = Frozen()
    support: AnySupport = Full()
    target: AnyTarget = Single()
    type: Literal["teacher"] = "teacher"

    def __post_init__(self) -> None:
        if isinstance(self.target, Purified) and not isinstance(self.support, Full):
            raise ValueError(
                "the target 'purified' is centred over the whole vocabulary: leave support at full"
            )


@part
class Distill:
    """The divergence of the student's next-token distribution from the teacher's.

    `temperature` divides both sides' logits; "sampling" takes the rollouts' temperature.
    """

    teacher: Teacher
    divergence: AnyDivergence = forward_kl
    weighting: tuple[AnyWeighting, ...] = ()
    reduction: Reduction = Reduction()
    temperature: Temperature = "sampling"
    type: Literal["distill"] = "distill"

    def __post_init__(self) -> None:
        if isinstance(self.teacher.target, PerView):
            raise ValueError("the target 'per_view' is none to distil: choose another")

    def term(self, views: Sequence[View], temperature: float) -> Term:
        teacher = self.teacher
        return ChunkDivergence(views, self.divergence, teacher.target, teacher.support, temperature)

    def losses(self, values: Tensor, table: TokenTable) -> Tensor:
        return values * weight(self.weighting, table, values)

    @property
    def slope(self) -> float | None:
        return None if self.weighting else 1.0


@part
class Advantage:
    """A policy-gradient loss on sampled tokens; the credit may compare with a teacher's views."""

    credit: AnyCredit = GroupNormalised()
    surrogate: AnySurrogate = Clipped()
    teacher: Teacher | None = None
    weighting: tuple[AnyWeighting, ...] = ()
    reduction: Reduction = Reduction()
    temperature: Temperature = "sampling"
    type: Literal["advantage"] = "advantage"

    def __post_init__(self) -> None:
        separate = self.teacher is not None and isinstance(self.teacher.target, PerView)
        if isinstance(self.credit, Gated) != separate:
            raise ValueError("the credit 'gated' and the target 'per_view' need each other")

    def term(self, views: Sequence[View], temperature: float) -> Term:
        target = self.teacher.target if self.teacher else Single()
        return ChunkLogProb(views, target, temperature)

    def losses(self, values: Tensor, table: TokenTable) -> Tensor:
        advantage = self.credit(table)
        losses = self.surrogate(values, table.logp_sampler, advantage)
        return losses * weight(self.weighting, table, values)

    @property
    def slope(self) -> float | None:
        return None


@part
class Likelihood:
    """Negative log-likelihood of the completion's tokens, in nats."""

    weighting: tuple[AnyWeighting, ...] = ()
    reduction: Reduction = Reduction()
    temperature: Temperature = 1.0
    type: Literal["likelihood"] = "likelihood"

    def term(self, views: Sequence[View], temperature: float) -> Term:
        return ChunkLogProb(temperature=temperature)

    def losses(self, values: Tensor, table: TokenTable) -> Tensor:
        return -values * weight(self.weighting, table, values)

    @property
    def teacher(self) -> Teacher | None:
        return None

    @property
    def slope(self) -> float | None:
        return None if self.weighting else -1.0


LossTerm = Annotated[Distill | Advantage | Likelihood, Field(discriminator="type")]


@part
class Sum:
    """Several signals on the same rollouts: (coefficient, signal) pairs, one trunk pass; each
    signal keeps its own reduction."""

    terms: Annotated[tuple[tuple[Number, LossTerm], ...], Field(min_length=1)]
    type: Literal["sum"] = "sum"


Signal = Annotated[Distill | Advantage | Likelihood | Sum, Field(discriminator="type")]


def leaves(signal: Signal) -> list[tuple[float, LossTerm]]:
    """The (coefficient, signal) pairs of a signal; one pair unless it is a `Sum`."""
    return list(signal.terms) if isinstance(signal, Sum) else [(1.0, signal)]


def taught(leaf: LossTerm, position: Tensor, markup: Tensor | None = None) -> Tensor:
    """Which tokens of a taught rollout the signal's weightings leave in, by position [N] and by
    whether they are markup (none is, unless told)."""
    markup = torch.zeros_like(position, dtype=torch.bool) if markup is None else markup
    mask = torch.ones_like(position, dtype=torch.bool)
    for weighting in leaf.weighting:
        mask &= weighting.mask(position, markup)
    return mask


def weight(weightings: Sequence[AnyWeighting], table: TokenTable, like: Tensor) -> Tensor:
    """The product of the weightings [N], without gradient; 1 where there are none."""
    product = torch.ones_like(like)
    for weighting in weightings:
        product = product * weighting(table)
    return product.detach()
