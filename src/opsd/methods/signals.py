"""The training signals of a token: distillation, advantage, likelihood, and sums of them.

A loss term builds a term for the fused loop from a teacher's views, and turns the term's values [N]
into losses [N]. It never reduces; `objective.total` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor

from opsd.objective import total
from opsd.objective.credit import (
    AnyCredit,
    AnySurrogate,
    Clipped,
    Credit,
    GroupNormalised,
    Surrogate,
)
from opsd.objective.divergences import AnyDivergence, Divergence, forward_kl
from opsd.objective.head import TeacherHidden
from opsd.objective.support import AnySupport, Full
from opsd.objective.table import TokenTable
from opsd.objective.targets import AnyTarget, Single
from opsd.objective.terms import ChunkDivergence, ChunkLogProb, Term
from opsd.objective.total import Reduction
from opsd.objective.weighting import AnyWeighting
from opsd.parts import Slot, called, part, tag
from opsd.prompts.contexts import AnyContext
from opsd.schedule import Number
from opsd.teacher.weights import Frozen, Weights, WeightsOfViews
from opsd.types import UserError, View

Temperature = Annotated[float, Field(ge=0.001)] | Literal["sampling"]


@part
class Teacher:
    """The teacher: what it reads (`context`), with which `weights`, over which vocabulary entries
    (`support`), and towards which `target` it trains. Several weights are given one per view, in
    the views' order."""

    context: AnyContext
    weights: WeightsOfViews = Frozen()
    support: AnySupport = Full()
    target: AnyTarget = Single()
    type: Literal["teacher"] = "teacher"

    def __post_init__(self) -> None:
        if self.target.needs_full_support and not self.support.is_full:
            raise ValueError(
                f"the target '{tag(self.target)}' is centred over the whole vocabulary: leave"
                " support at full"
            )

    @property
    def all_weights(self) -> tuple[Weights, ...]:
        """The weights of the views in order, or a single one that all views share."""
        return self.weights if isinstance(self.weights, tuple) else (self.weights,)

    def weights_of(self, views: Sequence[View]) -> list[Weights]:
        """The weights that read each of the given views. UserError if their numbers differ."""
        own = self.all_weights
        if len(own) not in (1, len(views)):
            raise UserError(
                f"the teacher has {len(own)} weights, but its context '{self.context.label}' gives"
                f" {len(views)} view(s): name one, or one per view"
            )
        return list(own * len(views) if len(own) == 1 else own)


class LossTerm(total.LossTerm, Protocol):
    """One kind of training loss, with its teacher (if any) and its reduction. A custom term
    inherits defaults for whatever it does not define."""

    teacher: Teacher | None
    weighting: tuple[AnyWeighting, ...] = ()
    temperature: Temperature = "sampling"
    divergence: Divergence | None = None
    """The divergence from its teacher, if the loss is a divergence."""
    credit: Credit | None = None
    """The credit that gives the advantages, if the loss is a policy-gradient loss through its
    `surrogate`."""
    surrogate: Surrogate | None = None

    def pseudocode(self, mark: str) -> str:
        """A token's loss in terms of `p`, the student's distribution, and `q` with the mark as
        suffix, its target."""
        return f"loss{mark} = {called(self)}"

    @property
    def needs_sampling_logprobs(self) -> bool:
        """Whether it reads the log-probabilities that tokens were sampled with."""
        return any(weighting.needs_sampling_logprobs for weighting in self.weighting)

    @property
    def corrects_sampling(self) -> bool:
        """Whether it corrects for the distribution that the rollouts were sampled from."""
        return any(weighting.corrects_sampling for weighting in self.weighting)

    @property
    def slope(self) -> float | None:
        return None

    def taught(self, position: Tensor, special: Tensor | None = None) -> Tensor:
        special = torch.zeros_like(position, dtype=torch.bool) if special is None else special
        mask = torch.ones_like(position, dtype=torch.bool)
        for weighting in self.weighting:
            mask &= weighting.mask(position, special)
        return mask

    def weight(self, table: TokenTable) -> Tensor:
        """The product of the weightings [N], without gradient; 1 if there are none."""
        product = torch.ones_like(table.logp_sampler)
        for weighting in self.weighting:
            product = product * weighting(table)
        return product.detach()


@part
class Distill(LossTerm):
    """The divergence of the student's next-token distribution from the teacher's.

    `temperature` divides both sides' logits; "sampling" uses the rollouts' temperature.
    """

    teacher: Teacher
    divergence: AnyDivergence = forward_kl
    weighting: tuple[AnyWeighting, ...] = ()
    reduction: Reduction = Reduction()
    temperature: Temperature = "sampling"
    type: Literal["distill"] = "distill"

    def __post_init__(self) -> None:
        if not self.teacher.target.joins_views:
            raise ValueError(
                f"the target '{tag(self.teacher.target)}' cannot be distilled: choose another"
            )

    def pseudocode(self, mark: str) -> str:
        return f"loss{mark} = {called(self.divergence)}(p, q{mark})"

    def term(self, views: Sequence[TeacherHidden], temperature: float) -> Term:
        teacher, confidence = self.teacher, any(w.needs_confidence for w in self.weighting)
        parts = (self.divergence, teacher.target, teacher.support)
        return ChunkDivergence(views, *parts, temperature, confidence)

    def losses(self, values: Tensor, table: TokenTable) -> Tensor:
        return values * self.weight(table)

    @property
    def slope(self) -> float | None:
        return None if self.weighting else 1.0


@part
class Advantage(LossTerm):
    """A policy-gradient loss on sampled tokens; the credit may use a teacher's views."""

    credit: AnyCredit = GroupNormalised()
    surrogate: AnySurrogate = Clipped()
    teacher: Teacher | None = None
    weighting: tuple[AnyWeighting, ...] = ()
    reduction: Reduction = Reduction()
    temperature: Temperature = "sampling"
    type: Literal["advantage"] = "advantage"

    def __post_init__(self) -> None:
        apart = self.teacher is not None and not self.teacher.target.joins_views
        if self.credit.reads_views != apart:
            raise ValueError(
                f"the credit '{tag(self.credit)}' reads"
                f" {'each view' if self.credit.reads_views else 'one target'}: choose as the"
                f" teacher's target {'per_view' if self.credit.reads_views else 'not per_view'}"
            )

    @property
    def needs_sampling_logprobs(self) -> bool:
        return True

    @property
    def corrects_sampling(self) -> bool:
        return True

    def pseudocode(self, mark: str) -> str:
        surrogate = called(self.surrogate)
        return f"A{mark} = {called(self.credit)}; loss{mark} = {surrogate}(log p(token), A{mark})"

    def term(self, views: Sequence[TeacherHidden], temperature: float) -> Term:
        target = self.teacher.target if self.teacher else Single()
        return ChunkLogProb(views, target, temperature)

    def losses(self, values: Tensor, table: TokenTable) -> Tensor:
        advantage = self.credit(table)
        losses = self.surrogate(values, table.logp_sampler, advantage)
        return losses * self.weight(table)


@part
class Likelihood(LossTerm):
    """Negative log-likelihood of the completion's tokens, in nats."""

    weighting: tuple[AnyWeighting, ...] = ()
    reduction: Reduction = Reduction()
    temperature: Temperature = 1.0
    type: Literal["likelihood"] = "likelihood"
    teacher: ClassVar[None] = None

    def pseudocode(self, mark: str) -> str:
        return f"loss{mark} = -log p(token)"

    def term(self, views: Sequence[TeacherHidden], temperature: float) -> Term:
        return ChunkLogProb(temperature=temperature)

    def losses(self, values: Tensor, table: TokenTable) -> Tensor:
        return -values * self.weight(table)

    @property
    def slope(self) -> float | None:
        return None if self.weighting else -1.0


AnyLossTerm = Annotated[LossTerm, Slot("signal", LossTerm, (Distill, Advantage, Likelihood))]


@part
class Sum:
    """Several signals on the same rollouts, as (coefficient, signal) pairs. They share one forward
    pass through the trunk; each signal keeps its own reduction."""

    terms: Annotated[tuple[tuple[Number, AnyLossTerm], ...], Field(min_length=1)]
    type: Literal["sum"] = "sum"


Signal = Annotated[LossTerm | Sum, Slot("signal", LossTerm, (Distill, Advantage, Likelihood, Sum))]


def loss_terms(signal: LossTerm | Sum) -> list[tuple[float, LossTerm]]:
    """The (coefficient, loss term) pairs of a signal; one pair unless it is a `Sum`."""
    return list(signal.terms) if isinstance(signal, Sum) else [(1.0, signal)]
