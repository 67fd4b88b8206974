r"""Divergences between student and target, in nats per token.

Each divergence is defined by its vocabulary summand, and by the closed form of its value and
gradient, which the fused loss uses. Symbols, per token over the vocabulary: `p` the student's and
`q` the target's probabilities, `delta = log q - log p`. Gradients are with respect to the student's
logits: `a - p sum(a)`, where `a` is the summand's derivative with respect to log p.

    forward_kl  KL(q || p)                                  summand  q delta
    reverse_kl  KL(p || q)                                  summand -p delta
    jsd(beta)   beta KL(q || m) + (1-beta) KL(p || m)       m = (1-beta) p + beta q

Forward and reverse KL are not the end points of `jsd`: the formula tends to 0 there (GKD, Agarwal
et al. 2024; OPSD, Zhao et al. 2026, arXiv 2601.18734).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Annotated, Literal, NamedTuple, Protocol

import torch
from pydantic import Field
from torch import Tensor

from opsd.parts import Slot, part, tag

# Above this log-ratio, exp() nears the limit of float32, and m / p equals its own limit to 13
# digits.
_FAR = 30.0


@dataclass
class Rows:
    """The inputs of a divergence, all `[..., V]`: `p`, `q`, `delta`; `ratio` = q/p - 1 for
    log-ratios up to 30, and `excess` = q - p, both without cancellation near equality. `finite`
    says that every `delta` is finite."""

    p: Tensor
    q: Tensor
    delta: Tensor
    ratio: Tensor
    excess: Tensor
    finite: bool = False

    def weigh(self, probability: Tensor, x: Tensor) -> Tensor:
        """probability * x, and 0 where the probability is 0 (0 log 0 = 0)."""
        product = probability * x
        return product if self.finite else torch.where(probability == 0, 0.0, product)


class ValueAndGradient(NamedTuple):
    """`value` [N], its `gradient` [N, V] with respect to the student's logits, the value before any
    clip [N], and whether a clip acted on the row [N] (bool)."""

    value: Tensor
    gradient: Tensor
    unclipped: Tensor
    clipped: Tensor


class Divergence(Protocol):
    """student_logp, target_logp `[..., V]` -> loss `[...]`, nats per token, differentiable with
    respect to the first. A custom divergence needs nothing more: autograd computes its gradient,
    chunk by chunk. The shipped ones also have closed forms (`ClosedForm`)."""

    def __call__(self, student_logp: Tensor, target_logp: Tensor) -> Tensor: ...


def rows_from_logp(student_logp: Tensor, target_logp: Tensor) -> Rows:
    """Rows from normalised log-probabilities. Entries with probability 0 on both sides have a
    `delta` of 0."""
    lacking = torch.isneginf(student_logp) & torch.isneginf(target_logp)
    delta = torch.where(lacking, 0.0, target_logp - student_logp)
    p, q, ratio = student_logp.exp(), target_logp.exp(), delta.clamp(max=_FAR).expm1()
    return Rows(p, q, delta, ratio, torch.where(delta.abs() < 1, p * ratio, q - p))


def normalised(logits_NV: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """Log-probabilities and probabilities at a temperature; overwrites the logits."""
    logp = logits_NV.sub_(logits_NV.amax(-1, keepdim=True))
    if temperature != 1.0:
        logp = logp.div_(temperature)
    p = logp.exp()
    norm = p.sum(-1, keepdim=True)
    return logp.sub_(norm.log()), p.div_(norm)


def rows_from_logits(
    student_NV: Tensor,
    target_NV: Tensor,
    temperature: float = 1.0,
    tokens: Tensor | None = None,
) -> tuple[Rows, dict[str, Tensor]]:
    """Rows from finite unnormalised logits, and their statistics `[N]`: both entropies in nats,
    and, if `tokens` are given, both log-probabilities of each row's token.

    Both are divided by `temperature` after subtraction, as rounding each quotient would drown a
    small difference. The difference of the two log-normalisers is computed from the centred
    difference of the logits, as log1p(sum p expm1 x). Near equality this is exact to rounding,
    whereas two separate log-sum-exps would lose every digit. Overwrites both arguments.
    """
    x = target_NV.sub_(student_NV)
    if temperature != 1.0:
        x = x.div_(temperature)
    logp, p = normalised(student_NV, temperature)
    x.sub_(_sum(p, x))
    where_far = _where_far(x.amax(-1, keepdim=True) > _FAR)
    near_shift = torch.log1p(_sum(p, x.expm1()))
    shift = where_far(_far_shift, near_shift, logp, x)
    delta = x.sub_(shift)
    q = where_far(_far_q, delta.exp().mul_(p), logp, delta)
    ratio = where_far(_far_ratio, delta.expm1(), delta)
    statistics = _statistics(p, q, logp, delta, tokens)
    excess = where_far(_far_excess, torch.mul(p, ratio, out=logp), p, q, delta)
    return Rows(p, q, delta, ratio, excess, True), statistics


def _statistics(
    p: Tensor, q: Tensor, logp: Tensor, delta: Tensor, tokens: Tensor | None
) -> dict[str, Tensor]:
    own, cross, gap = _sum(p, logp), _sum(q, logp), _sum(q, delta)
    statistics = {"entropy_student": -own, "entropy_teacher": -(cross + gap)}
    if tokens is not None:
        ids = tokens.unsqueeze(-1)
        at = torch.cat([x.gather(-1, ids) for x in (logp, delta)], -1)
        statistics |= {"logp_student": at[:, :1], "logp_target": at.sum(-1, keepdim=True)}
    return {name: column.squeeze(-1) for name, column in statistics.items()}


def _where_far(far: Tensor) -> Callable[..., Tensor]:
    """A function that returns the usual values, except on the `far` rows [N, 1], where it returns
    what `made` computes."""
    # A compiled graph cannot select rows: it computes both in one loop.
    at = None if torch.compiler.is_compiling() else far.squeeze(-1).nonzero().squeeze(-1)

    def choose(made: Callable[..., Tensor], usual: Tensor, *given: Tensor) -> Tensor:
        if at is None:
            return torch.where(far, made(*given), usual)
        if len(at):
            usual[at] = made(*(rows[at] for rows in given))
        return usual

    return choose


def _far_shift(logp: Tensor, x: Tensor) -> Tensor:
    rows = logp + x
    most = rows.amax(-1, keepdim=True)
    return most + torch.exp(rows - most).sum(-1, keepdim=True).log()


def _far_q(logp: Tensor, delta: Tensor) -> Tensor:
    return (logp + delta).exp()


def _far_ratio(delta: Tensor) -> Tensor:
    return delta.clamp(max=_FAR).expm1()


def _far_excess(p: Tensor, q: Tensor, delta: Tensor) -> Tensor:
    return torch.maximum(p, q).mul_(-torch.expm1(-delta.abs())).copysign_(delta)


class ClosedForm:
    """A divergence that is a sum over the vocabulary, with value and gradient in closed form, which
    the fused loss uses instead of autograd."""

    def __call__(self, student_logp: Tensor, target_logp: Tensor) -> Tensor:
        """The dense form. Differentiable by autograd, whatever the inputs' dtype."""
        rows = rows_from_logp(student_logp, target_logp)
        return (self.summand(rows) + self.zero_sum(rows)).sum(-1)

    @property
    def formula(self) -> str:
        """The divergence as a formula."""
        raise NotImplementedError

    def summand(self, rows: Rows) -> Tensor:
        """The summand for every vocabulary entry `[..., V]`."""
        raise NotImplementedError

    def slope(self, rows: Rows) -> Tensor:
        """The summand's derivative with respect to log p `[..., V]`."""
        raise NotImplementedError

    def closed_form(self, rows: Rows) -> ValueAndGradient:
        """Value and gradient; overwrites `rows`."""
        raise NotImplementedError

    def zero_sum(self, rows: Rows) -> Tensor | float:
        """A term that sums to 0 over normalised rows and cancels first-order rounding errors."""
        return 0.0


@part
class ForwardKL(ClosedForm):
    """KL(target || student): the student covers whatever the teacher finds likely."""

    type: Literal["forward_kl"] = "forward_kl"

    @property
    def formula(self) -> str:
        return "KL(target || student) = sum_v q (log q - log p)"

    def summand(self, rows: Rows) -> Tensor:
        return rows.weigh(rows.q, rows.delta)

    def zero_sum(self, rows: Rows) -> Tensor:
        return -rows.excess

    def slope(self, rows: Rows) -> Tensor:
        return -rows.q

    def closed_form(self, rows: Rows) -> ValueAndGradient:
        value, excess = _sum(rows.q, rows.delta), _sum(rows.excess)
        return _plain(value - excess, rows.excess.neg_())


@part
class ReverseKL(ClosedForm):
    """KL(student || target): the student avoids whatever the teacher finds unlikely."""

    type: Literal["reverse_kl"] = "reverse_kl"

    @property
    def formula(self) -> str:
        return "KL(student || target) = sum_v p (log p - log q)"

    def summand(self, rows: Rows) -> Tensor:
        return -rows.weigh(rows.p, rows.delta)

    def zero_sum(self, rows: Rows) -> Tensor:
        return rows.excess

    def slope(self, rows: Rows) -> Tensor:
        return rows.p * (1 - rows.delta)

    def closed_form(self, rows: Rows) -> ValueAndGradient:
        value = _sum(rows.excess) - _sum(rows.p, rows.delta)
        gradient = rows.delta.add_(value).mul_(rows.p).neg_()
        return _plain(value, _balanced(gradient, rows))


@part
class JSD(ClosedForm):
    """Generalised Jensen-Shannon divergence, 0 < beta < 1; at 0.5 symmetric and at most ln 2."""

    beta: Annotated[float, Field(gt=0, lt=1)] = 0.5
    type: Literal["jsd"] = "jsd"

    @property
    def formula(self) -> str:
        b = f"{self.beta:g}"
        return f"{b} KL(target || m) + (1-{b}) KL(student || m), m = (1-{b}) student + {b} target"

    def _logs(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """log(m / p) and log(m / q). The one closer to m is computed first, the other from it: near
        equality, the smaller log has the smaller rounding error."""
        if self.beta <= 0.5:
            u = (rows.ratio * self.beta).log1p_()
            return u, u - rows.delta.clamp(max=_FAR)
        delta = rows.delta.clamp(min=-_FAR)
        v = ((-delta).expm1() * (1 - self.beta)).log1p_()
        return v + delta, v

    def summand(self, rows: Rows) -> Tensor:
        u, v = self._logs(rows)
        return -self.beta * rows.weigh(rows.q, v) - (1 - self.beta) * rows.weigh(rows.p, u)

    def slope(self, rows: Rows) -> Tensor:
        return self._logs(rows)[0].mul_(rows.p).mul_(self.beta - 1)

    def closed_form(self, rows: Rows) -> ValueAndGradient:
        u, v = self._logs(rows)
        student, target = _sum(rows.p, u), _sum(rows.q, v)
        value = -self.beta * target - (1 - self.beta) * student
        gradient = u.sub_(student).mul_(rows.p).mul_(self.beta - 1)
        return _plain(value, _balanced(gradient, rows))


PlainDivergence = Annotated[ForwardKL | ReverseKL | JSD, Field(discriminator="type")]


@part
class PointwiseClip(ClosedForm):
    """Caps every vocabulary summand at `cap` nats before the sum, as OPSD's released code does.

    Negative summands are not capped, so the value can be negative and its minimum is not at student
    = target; a clipped entry pushes the student *away* from what the teacher prefers. Therefore the
    value before clipping is always logged too.
    """

    divergence: PlainDivergence
    cap: Annotated[float, Field(gt=0)] = 0.05
    type: Literal["pointwise_clip"] = "pointwise_clip"

    @property
    def formula(self) -> str:
        return f"{self.divergence.formula}, every summand capped at {self.cap:g}"

    def summand(self, rows: Rows) -> Tensor:
        return self.divergence.summand(rows).clamp(max=self.cap)

    def zero_sum(self, rows: Rows) -> Tensor:
        untouched = (self.divergence.summand(rows) <= self.cap).all(-1, keepdim=True)
        return untouched * self.divergence.zero_sum(rows)

    def slope(self, rows: Rows) -> Tensor:
        return self.divergence.slope(rows) * (self.divergence.summand(rows) <= self.cap)

    def closed_form(self, rows: Rows) -> ValueAndGradient:
        # Masks are numbers, and selections are lerps at 0 and 1, both exact: booleans do not
        # vectorise on a CPU and would cost as much as everything else.
        summand = self.divergence.summand(rows)
        over = (summand - self.cap).clamp_(min=0).sign_()
        slope = self.divergence.slope(rows)
        slope.addcmul_(slope, over, value=-1)
        capped, slopes = _sum(summand.clamp_(max=self.cap)).squeeze(-1), _sum(slope)
        cut = over.amax(-1)
        slope.addcmul_(rows.p, slopes, value=-1)
        # Rows without a capped summand keep the stable form; the others are summed directly.
        value, gradient, _, _ = self.divergence.closed_form(rows)
        gradient.lerp_(slope, cut.unsqueeze(-1))
        return ValueAndGradient(value.lerp(capped, cut), gradient, value, cut > 0)


AnyDivergence = Annotated[
    Divergence, Slot("divergence", Divergence, (ForwardKL, ReverseKL, JSD, PointwiseClip))
]

forward_kl = ForwardKL()
reverse_kl = ReverseKL()


def jsd(beta: float = 0.5) -> JSD:
    """The generalised Jensen-Shannon divergence with weight `beta` on the target, 0 < beta < 1."""
    return JSD(beta)


def formula_of(divergence: Divergence) -> str:
    """A divergence's formula; a custom divergence's name."""
    return divergence.formula if isinstance(divergence, ClosedForm) else tag(divergence)


def without_clip(divergence: Divergence) -> Divergence:
    """The divergence inside a pointwise clip; any other divergence unchanged."""
    return divergence.divergence if isinstance(divergence, PointwiseClip) else divergence


def pointwise_clip(divergence: ForwardKL | ReverseKL | JSD, cap: float = 0.05) -> PointwiseClip:
    """`divergence` with every vocabulary summand capped at `cap` nats (OPSD v3, clip 0.05)."""
    return PointwiseClip(divergence, cap)


def _sum(*factors: Tensor) -> Tensor:
    """The row-wise sum of a product, `[..., 1]`; pairwise: a plain accumulation over V loses
    digits."""
    return reduce(torch.mul, factors).sum(-1, keepdim=True)


def _balanced(gradient: Tensor, rows: Rows) -> Tensor:
    """Corrects each row of a gradient so that it sums to 0. If one entry has most of the mass, its
    gradient is recomputed from the sum of the others, as the closed form subtracts nearly equal
    numbers there. Otherwise the surplus comes from rounding the row's mean, and is distributed in
    proportion to the mass."""
    peaked = rows.p.amax(-1, keepdim=True) > 0.5
    share = (rows.p - 0.5 * peaked).clamp_(min=0)
    return gradient.addcmul_(share, _sum(gradient) / _sum(share), value=-1)


def _plain(value: Tensor, gradient: Tensor) -> ValueAndGradient:
    value = value.squeeze(-1)
    return ValueAndGradient(value, gradient, value, torch.zeros_like(value, dtype=torch.bool))
