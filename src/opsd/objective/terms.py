"""Terms: one quantity per row and its gradient with respect to the student's logits, which the
fused loop computes on every chunk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from opsd.objective.divergences import (
    ClosedForm,
    Divergence,
    ValueAndGradient,
    forward_kl,
    normalised,
    rows_from_logits,
)
from opsd.objective.head import Head, TeacherHidden
from opsd.objective.support import Full, Support
from opsd.objective.table import of_view
from opsd.objective.targets import Single, Target, weighted_sum
from opsd.parts import tag
from opsd.types import UserError


class ChunkResult(NamedTuple):
    """A chunk's values [C], their gradient with respect to the student's logits [C, V], and
    statistics [C]."""

    value: Tensor
    gradient: Tensor
    statistics: dict[str, Tensor]


class Term(Protocol):
    """One quantity per row. Called with a chunk's student logits, views' logits and token ids, all
    of which may be overwritten."""

    @property
    def views(self) -> Sequence[TeacherHidden]: ...
    def __call__(self, student: Tensor, views: list[Tensor], tokens: Tensor) -> ChunkResult: ...


@dataclass(frozen=True)
class ChunkDivergence:
    """The divergence of the student from a target built from the views, both at `temperature`.
    `confidence` records the natural log of the first view's highest probability, over the whole
    vocabulary."""

    views: Sequence[TeacherHidden]
    divergence: Divergence = forward_kl
    target: Target = Single()
    support: Support = Full()
    temperature: float = 1.0
    confidence: bool = False

    def __call__(self, student: Tensor, views: list[Tensor], tokens: Tensor) -> ChunkResult:
        temperature, names = self.temperature, [view.name for view in self.views]
        whole = self.support.is_full
        statistics: dict[str, Tensor] = {}
        if not whole:
            statistics["logp_student"] = token_logp(student, tokens, temperature)
        if len(views) > 1:
            for name, logits in zip(names, views, strict=True):
                statistics[of_view(name)] = token_logp(logits, tokens, temperature)
        if self.confidence:
            own = views[0] / temperature
            statistics["confidence_teacher"] = own.amax(-1) - own.logsumexp(-1)
        if not self._keeps_logits:
            student = _tempered(student, temperature)
            views = [_tempered(view, temperature) for view in views]
            temperature = 1.0
        restricted = self.support(student, views, names, temperature)
        target = self.target(restricted.views, restricted.student)
        statistics |= _under("target", target.diagnostics)
        statistics |= _under("support", restricted.diagnostics)
        rows = restricted.student, target.logits, temperature, tokens if whole else None
        if isinstance(self.divergence, ClosedForm):
            known, of_rows = rows_from_logits(*rows)
            closed_form = self.divergence.closed_form(known)
        else:
            closed_form, of_rows = _by_autograd(self.divergence, *rows)
        statistics |= of_rows
        statistics |= {"divergence": closed_form.unclipped, "clipped": closed_form.clipped.float()}
        gradient = restricted.expand(closed_form.gradient)
        return ChunkResult(closed_form.value, _by_raw(gradient, self.temperature), statistics)

    @property
    def common(self) -> bool:
        """Whether it is a divergence with a closed form, from one teacher's own distribution, over
        the whole vocabulary: the case that kernels support."""
        return (
            len(self.views) == 1
            and not self.confidence
            and self.target.is_view
            and self.support.is_full
            and isinstance(self.divergence, ClosedForm)
        )

    @property
    def _keeps_logits(self) -> bool:
        """Whether the rows are raw logits, so that the temperature can be applied to
        differences."""
        return self.target.is_view


@dataclass(frozen=True)
class ChunkLogProb:
    """The student's log-probability of the sampled token, at `temperature`. If there are views, the
    target built from them is read only at that token."""

    views: Sequence[TeacherHidden] = ()
    target: Target = Single()
    temperature: float = 1.0

    def __call__(self, student: Tensor, views: list[Tensor], tokens: Tensor) -> ChunkResult:
        statistics: dict[str, Tensor] = {}
        if views and not self.target.joins_views:
            for view, logits in zip(self.views, views, strict=True):
                statistics[of_view(view.name)] = token_logp(logits, tokens, self.temperature)
        elif views:
            tempered = [_tempered(view, self.temperature) for view in views]
            own = student / self.temperature
            target_logits = self.target(tempered, own)
            target, q = normalised(target_logits.logits)
            statistics |= _under("target", target_logits.diagnostics)
            statistics["logp_target"] = _at(target, tokens)
            statistics["entropy_teacher"] = -(q * target).sum(-1)
        logp, p = normalised(student, self.temperature)
        statistics["entropy_student"] = -(p * logp).sum(-1)
        at = tokens.unsqueeze(-1)
        # 1 - p as the sum of the others: for a near-certain token, the difference would lose every
        # digit.
        others = p.scatter_(-1, at, 0.0).sum(-1)
        value = torch.where(others < 0.5, torch.log1p(-others), _at(logp, tokens))
        statistics["logp_student"] = value
        gradient = p.neg_().scatter_(-1, at, others.unsqueeze(-1))
        return ChunkResult(value, _by_raw(gradient, self.temperature), statistics)


def mixed_before(term: Term, student_ND: Tensor, head: Head) -> Term:
    """The same term, with the views of a mixture mixed as hidden states if logits are linear in
    them. This is exact except for one rounding to the head's dtype, and needs only two passes over
    the vocabulary."""
    if not isinstance(term, ChunkDivergence | ChunkLogProb) or term.target.linear is None:
        return term
    (weights, own), views = term.target.linear, term.views
    linear = head.softcap is None and all(v.head.weight is head.weight for v in views)
    biased = head.bias is not None and abs(sum(weights) + own - 1) > 1e-6
    whole = isinstance(term, ChunkLogProb) or term.support.is_full
    if not linear or biased or not whole or len(views) != len(weights):
        return term
    hidden = [v.hidden_ND.float() for v in views]
    mixed = weighted_sum(hidden, weights, student_ND.float(), own)
    return replace(term, views=(TeacherHidden("target", mixed, head),), target=Single())


def _by_autograd(
    divergence: Divergence,
    student: Tensor,
    target: Tensor,
    temperature: float,
    tokens: Tensor | None,
) -> tuple[ValueAndGradient, dict[str, Tensor]]:
    """The value and gradient of a divergence without a closed form, by autograd."""
    target_logp, q = normalised(target, temperature)
    with torch.enable_grad():
        logits = student.detach() if temperature == 1.0 else student.detach() / temperature
        logp = logits.requires_grad_().log_softmax(-1)
        value: Any = divergence(logp, target_logp)
        shape = list(getattr(value, "shape", ()))
        if shape != list(logp.shape[:-1]) or not value.requires_grad:
            kind = tag(divergence)
            if shape == list(logp.shape[:-1]):
                raise UserError(f"the divergence {kind} does not depend on the student")
            raise UserError(
                f"the divergence {kind} returns shape {shape} for rows {list(logp.shape)}: it must"
                " sum over the last dimension, and return one value per row"
            )
        (gradient,) = torch.autograd.grad(value.sum(), logits)
    logp, value = logp.detach(), value.detach().float()
    statistics = {
        "entropy_student": -(logp.exp() * logp).sum(-1),
        "entropy_teacher": -(q * target_logp).nan_to_num_(0.0).sum(-1),
    }
    if tokens is not None:
        statistics |= {"logp_student": _at(logp, tokens), "logp_target": _at(target_logp, tokens)}
    untouched = torch.zeros_like(value, dtype=torch.bool)
    return ValueAndGradient(value, gradient, value, untouched), statistics


def token_logp(logits: Tensor, tokens: Tensor, temperature: float = 1.0) -> Tensor:
    """Log-probability [C] of each row's token at a temperature."""
    norm = logits.logsumexp(-1) if temperature == 1.0 else (logits / temperature).logsumexp(-1)
    return _at(logits, tokens) / temperature - norm


def _under(owner: str, seen: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A part's values, under names that do not collide with other parts or fixed statistics."""
    return {f"{owner}/{name}": column for name, column in seen.items()}


def _tempered(logits: Tensor, temperature: float) -> Tensor:
    return logits if temperature == 1.0 else logits.div_(temperature)


def _by_raw(gradient: Tensor, temperature: float) -> Tensor:
    return gradient if temperature == 1.0 else gradient.div_(temperature)


def _at(rows: Tensor, tokens: Tensor) -> Tensor:
    return rows.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
