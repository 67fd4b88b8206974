"""One quantity per row, with its gradient by the student's logits in closed form: what the fused
loop computes on every chunk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from opsd.objective.divergences import (
    JSD,
    Divergence,
    ForwardKL,
    PointwiseClip,
    ReverseKL,
    forward_kl,
    normalised,
    rows_from_logits,
)
from opsd.objective.head import Head, View
from opsd.objective.shards import WHOLE, Across
from opsd.objective.support import Full, Support
from opsd.objective.table import of_view
from opsd.objective.targets import Mixture, PerView, Single, Target
from opsd.types import UserError


class ChunkResult(NamedTuple):
    """A chunk's values [C], their gradient by the student's logits [C, V], and statistics [C]."""

    value: Tensor
    gradient: Tensor
    statistics: dict[str, Tensor]


class Term(Protocol):
    """One quantity per row. Called with the chunk's student logits, views' logits, token ids;
    all of them may be overwritten."""

    @property
    def views(self) -> Sequence[View]: ...
    def __call__(self, student: Tensor, views: list[Tensor], tokens: Tensor) -> ChunkResult: ...


@dataclass(frozen=True)
class ChunkDivergence:
    """The divergence of the student from a target made of the views, both at `temperature`."""

    views: Sequence[View]
    divergence: Divergence = forward_kl
    target: Target = Single()
    support: Support = Full()
    temperature: float = 1.0
    across: Across = WHOLE

    def __call__(self, student: Tensor, views: list[Tensor], tokens: Tensor) -> ChunkResult:
        temperature, names = self.temperature, [view.name for view in self.views]
        whole = isinstance(self.support, Full)
        statistics: dict[str, Tensor] = {}
        if not whole:
            statistics["logp_student"] = token_logp(student, tokens, temperature)
        if len(views) > 1:
            for name, logits in zip(names, views, strict=True):
                statistics[of_view(name)] = token_logp(logits, tokens, temperature)
        if not self._keeps_logits:
            student = _tempered(student, temperature)
            views = [_tempered(view, temperature) for view in views]
            temperature = 1.0
        restricted = self.support(student, views, names, temperature)
        target, aimed = self.target(restricted.views, restricted.student)
        rows, seen = rows_from_logits(
            restricted.student,
            target,
            temperature,
            tokens if whole else None,
            self.across,
        )
        outcome = self.divergence.outcome(rows)
        statistics |= _under("target", aimed) | _under("support", restricted.seen) | seen
        statistics |= {"divergence": outcome.unclipped, "clipped": outcome.clipped.float()}
        gradient = restricted.expand(outcome.gradient)
        return ChunkResult(outcome.value, _by_raw(gradient, self.temperature), statistics)

    @property
    def common(self) -> bool:
        """Whether it is a known divergence from one teacher's own distribution, over the whole
        vocabulary: what kernels and divided heads cover."""
        return (
            len(self.views) == 1
            and isinstance(self.target, Single)
            and isinstance(self.support, Full)
            and isinstance(self.divergence, ForwardKL | ReverseKL | JSD | PointwiseClip)
        )

    @property
    def _keeps_logits(self) -> bool:
        """Whether the rows are the raw logits, so that the temperature may act on differences."""
        return isinstance(self.target, Single)


@dataclass(frozen=True)
class ChunkLogProb:
    """The student's log-probability of the sampled token, at `temperature`; a target made of the
    views, where there are any, is read at that token only."""

    views: Sequence[View] = ()
    target: Target = Single()
    temperature: float = 1.0

    def __call__(self, student: Tensor, views: list[Tensor], tokens: Tensor) -> ChunkResult:
        statistics: dict[str, Tensor] = {}
        if views and isinstance(self.target, PerView):
            for view, logits in zip(self.views, views, strict=True):
                statistics[of_view(view.name)] = token_logp(logits, tokens, self.temperature)
        elif views:
            tempered = [_tempered(view, self.temperature) for view in views]
            own = student / self.temperature
            aim = self.target(tempered, own)
            target, q = normalised(aim.logits)
            statistics |= _under("target", aim.seen)
            statistics["logp_target"] = _at(target, tokens)
            statistics["entropy_teacher"] = -(q * target).sum(-1)
        logp, p = normalised(student, self.temperature)
        statistics["entropy_student"] = -(p * logp).sum(-1)
        at = tokens.unsqueeze(-1)
        # 1 - p as the sum of the others: of a near-certain token the difference keeps no digit.
        others = p.scatter_(-1, at, 0.0).sum(-1)
        value = torch.where(others < 0.5, torch.log1p(-others), _at(logp, tokens))
        statistics["logp_student"] = value
        gradient = p.neg_().scatter_(-1, at, others.unsqueeze(-1))
        return ChunkResult(value, _by_raw(gradient, self.temperature), statistics)


def mixed_before(term: Term, student_ND: Tensor, head: Head) -> Term:
    """The same term with its mixture's views mixed as hidden states, where logits are linear in
    them: exact but for one rounding to the head's dtype, and two vocabulary streams in all."""
    if not isinstance(term, ChunkDivergence | ChunkLogProb) or not isinstance(term.target, Mixture):
        return term
    mixture, views = term.target, term.views
    linear = head.softcap is None and all(v.head.weight is head.weight for v in views)
    biased = head.bias is not None and abs(sum(mixture.weights) + mixture.student - 1) > 1e-6
    whole = isinstance(term, ChunkLogProb) or isinstance(term.support, Full)
    if not linear or biased or not whole or len(views) != len(mixture.weights):
        return term
    mixed = mixture.pool([v.hidden_ND.float() for v in views], student_ND.float())
    return replace(term, views=(View("target", mixed, head),), target=Single())


def added_across(term: Term, head: Head) -> Term:
    """The same term, adding up over all parts of a head that is divided over processes.

    Raises UserError where that is not covered.
    """
    if any(view.head.across != head.across for view in term.views):
        raise UserError("student's and teacher's heads must be divided over the same ranks alike")
    if head.across == WHOLE:
        return term
    if not isinstance(term, ChunkDivergence) or not term.common:
        raise UserError(
            "a head divided over processes takes distillation from one teacher over the whole"
            " vocabulary (target 'single', support 'full'); gather the head for anything else"
        )
    return replace(term, across=head.across)


def token_logp(logits: Tensor, tokens: Tensor, temperature: float = 1.0) -> Tensor:
    """Log-probability [C] of each row's token at a temperature."""
    norm = logits.logsumexp(-1) if temperature == 1.0 else (logits / temperature).logsumexp(-1)
    return _at(logits, tokens) / temperature - norm


def _under(owner: str, seen: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What a part saw, under names that no other part and no fixed statistic has."""
    return {f"{owner}/{name}": column for name, column in seen.items()}


def _tempered(logits: Tensor, temperature: float) -> Tensor:
    return logits if temperature == 1.0 else logits.div_(temperature)


def _by_raw(gradient: Tensor, temperature: float) -> Tensor:
    return gradient if temperature == 1.0 else gradient.div_(temperature)


def _at(rows: Tensor, tokens: Tensor) -> Tensor:
    return rows.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
