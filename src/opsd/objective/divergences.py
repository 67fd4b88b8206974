r"""Divergences between student and target, in nats per token, named in words.

Each is written once by its vocabulary summand, and beside it stands the closed form of value and
gradient that the fused loss uses. Symbols, per token over the vocabulary: `p` the student's and
`q` the target's probabilities, `delta = log q - log p`. Gradients are with respect to the
student's logits: `a - p sum(a)`, where `a` is the summand's derivative by log p.

    forward_kl  KL(q || p)                                  summand  q delta
    reverse_kl  KL(p || q)                                  summand -p delta
    jsd(beta)   beta KL(q || m) + (1-beta) KL(p || m)       m = (1-beta) p + beta q

Forward and reverse KL are not the end points of `jsd`: the formula tends to 0 there (GKD, Agarwal
et al. 2024; OPSD, Zhao et al. 2026, arXiv 2601.18734).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple, Protocol

import torch
from pydantic import Field
from torch import Tensor

from opsd.parts import part

# Above this log-ratio exp() nears the end of float32; such rows are far from equal, so that
# ordinary log-sum-exps lose nothing.
_FAR = 30.0


@dataclass
class Rows:
    """What a divergence is computed from: `p`, `q`, `delta`, all `[..., V]`."""

    p: Tensor
    q: Tensor
    delta: Tensor

    def excess(self) -> Tensor:
        """q - p, without cancellation where the two are close."""
        gap = torch.abs(self.delta).neg_().expm1_().neg_()
        return gap.mul_(torch.maximum(self.p, self.q)).copysign_(self.delta)


class Outcome(NamedTuple):
    """`value` [N] with its `gradient` [N, V] by the student's logits, the value before any clip
    [N], and whether a clip acted on the row [N] (bool)."""

    value: Tensor
    gradient: Tensor
    unclipped: Tensor
    clipped: Tensor


class Divergence(Protocol):
    """student_logp, target_logp `[..., V]` -> loss `[...]`, nats per token."""

    @property
    def formula(self) -> str: ...
    def __call__(self, student_logp: Tensor, target_logp: Tensor) -> Tensor: ...
    def summand(self, rows: Rows) -> Tensor: ...
    def slope(self, rows: Rows) -> Tensor: ...
    def outcome(self, rows: Rows) -> Outcome: ...


def rows_from_logp(student_logp: Tensor, target_logp: Tensor) -> Rows:
    """Rows from normalised log-probabilities; entries that both lack differ by 0."""
    delta = torch.where(student_logp == target_logp, 0.0, target_logp - student_logp)
    return Rows(student_logp.exp(), target_logp.exp(), delta)


def rows_from_logits(
    student_NV: Tensor, target_NV: Tensor, temperature: float = 1.0
) -> tuple[Rows, Tensor, Tensor]:
    """Rows from unnormalised logits, and the entropies `[N]` of student and target, in nats.

    Both are divided by `temperature`, the logits' difference after it is taken: rounding each
    quotient would drown a small difference. The difference of the log-normalisers comes from the
    centred difference of the logits, log1p(sum p expm1 x): near equality it is exact to rounding,
    where two separate log-sum-exps lose every digit. Overwrites both arguments, so that three
    `[N, V]` buffers stay alive.
    """
    delta = target_NV.sub_(student_NV)
    if temperature != 1.0:
        delta, student_NV = delta.div_(temperature), student_NV.div_(temperature)
    logp = student_NV.sub_(student_NV.logsumexp(-1, keepdim=True))
    p = logp.exp()
    entropy_p = -_dot(p, logp)
    delta.sub_(_dot(p, delta).unsqueeze(-1))
    shift = torch.log1p(_dot(p, delta.clamp(max=_FAR).expm1_()))
    far = delta.amax(-1) > _FAR
    if any_far := bool(far.any()):
        shift = torch.where(far, (logp + delta).logsumexp(-1), shift)
    delta.sub_(shift.unsqueeze(-1))
    logq = logp.add_(delta)
    if any_far:
        logq.sub_(torch.where(far, logq.logsumexp(-1), 0.0).unsqueeze(-1))
    q = logq.exp()
    entropy_q = -_dot(q, logq)
    return Rows(p, q, delta), entropy_p, entropy_q


class _BySummand:
    """The dense form: sum the summand. Differentiable by autograd, whatever the inputs' dtype."""

    def __call__(self: Any, student_logp: Tensor, target_logp: Tensor) -> Tensor:
        return self.summand(rows_from_logp(student_logp, target_logp)).sum(-1)


@part
class ForwardKL(_BySummand):
    """KL(target || student): the student covers whatever the teacher finds likely."""

    type: Literal["forward_kl"] = "forward_kl"

    @property
    def formula(self) -> str:
        return "KL(target || student) = sum_v q (log q - log p)"

    def summand(self, rows: Rows) -> Tensor:
        return _product(rows.q, rows.delta)

    def slope(self, rows: Rows) -> Tensor:
        return -rows.q

    def outcome(self, rows: Rows) -> Outcome:
        excess = rows.excess()
        return _plain(_dot(rows.q, rows.delta) - excess.sum(-1), excess.neg_())


@part
class ReverseKL(_BySummand):
    """KL(student || target): the student avoids whatever the teacher finds unlikely."""

    type: Literal["reverse_kl"] = "reverse_kl"

    @property
    def formula(self) -> str:
        return "KL(student || target) = sum_v p (log p - log q)"

    def summand(self, rows: Rows) -> Tensor:
        return -_product(rows.p, rows.delta)

    def slope(self, rows: Rows) -> Tensor:
        return rows.p * (1 - rows.delta)

    def outcome(self, rows: Rows) -> Outcome:
        value = rows.excess().sum(-1) - _dot(rows.p, rows.delta)
        gradient = (rows.delta + value.unsqueeze(-1)).mul_(rows.p).neg_()
        return _plain(value, _balanced(gradient, rows.p))


@part
class JSD(_BySummand):
    """Generalised Jensen-Shannon divergence, 0 < beta < 1; at 0.5 symmetric and at most ln 2."""

    beta: Annotated[float, Field(gt=0, lt=1)] = 0.5
    type: Literal["jsd"] = "jsd"

    @property
    def formula(self) -> str:
        b = f"{self.beta:g}"
        return f"{b} KL(target || m) + (1-{b}) KL(student || m), m = (1-{b}) student + {b} target"

    def _log_mixture(self, rows: Rows) -> Tensor:
        """u = log(m / p) = log1p(beta expm1 delta), written so that exp() never overflows."""
        up = rows.delta > 0
        gap = torch.where(up, -rows.delta, rows.delta).expm1()
        gap = gap * torch.where(up, 1 - self.beta, self.beta)
        return gap.log1p() + torch.where(up, rows.delta, 0.0)

    def summand(self, rows: Rows) -> Tensor:
        u = self._log_mixture(rows)
        target = _product(rows.q, rows.delta - u)
        return self.beta * target - (1 - self.beta) * _product(rows.p, u)

    def slope(self, rows: Rows) -> Tensor:
        return self._log_mixture(rows).mul_(rows.p).mul_(self.beta - 1)

    def outcome(self, rows: Rows) -> Outcome:
        u = self._log_mixture(rows)
        student = _dot(rows.p, u)
        target = _dot(rows.q, rows.delta) - _dot(rows.q, u)
        value = self.beta * target - (1 - self.beta) * student
        gradient = u.sub_(student.unsqueeze(-1)).mul_(rows.p).mul_(self.beta - 1)
        return _plain(value, _balanced(gradient, rows.p))


PlainDivergence = Annotated[ForwardKL | ReverseKL | JSD, Field(discriminator="type")]


@part
class ClipSummands(_BySummand):
    """Caps every vocabulary summand at `cap` nats before the sum, as OPSD's released code does.

    Negative summands are not capped, so the value can be negative and its minimum is not at
    student = target; a clipped entry pushes the student *away* from what the teacher prefers. The
    value before clipping is therefore always logged beside it.
    """

    divergence: PlainDivergence
    cap: Annotated[float, Field(gt=0)] = 0.05
    type: Literal["clip_summands"] = "clip_summands"

    @property
    def formula(self) -> str:
        return f"{self.divergence.formula}, every summand capped at {self.cap:g}"

    def summand(self, rows: Rows) -> Tensor:
        return self.divergence.summand(rows).clamp(max=self.cap)

    def slope(self, rows: Rows) -> Tensor:
        return self.divergence.slope(rows) * (self.divergence.summand(rows) <= self.cap)

    def outcome(self, rows: Rows) -> Outcome:
        value, gradient, _, _ = self.divergence.outcome(rows)
        summand = self.divergence.summand(rows)
        kept = summand <= self.cap
        clipped = ~kept.all(-1)
        # Rows that no cap touches keep the stable form; the others are summed as they stand.
        clipped_value = torch.where(clipped, summand.clamp_(max=self.cap).sum(-1), value)
        slope = self.divergence.slope(rows).mul_(kept)
        slope.sub_(rows.p * slope.sum(-1, keepdim=True))
        gradient = torch.where(clipped.unsqueeze(-1), slope, gradient)
        return Outcome(clipped_value, gradient, value, clipped)


AnyDivergence = Annotated[ForwardKL | ReverseKL | JSD | ClipSummands, Field(discriminator="type")]

forward_kl = ForwardKL()
reverse_kl = ReverseKL()


def jsd(beta: float = 0.5) -> JSD:
    """The generalised Jensen-Shannon divergence with weight `beta` on the target, 0 < beta < 1."""
    return JSD(beta)


def clip_summands(divergence: ForwardKL | ReverseKL | JSD, cap: float = 0.05) -> ClipSummands:
    """`divergence` with every vocabulary summand capped at `cap` nats (OPSD v3, clip 0.05)."""
    return ClipSummands(divergence, cap)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Row-wise dot product, summed pairwise: a plain accumulation over V loses four digits."""
    return torch.linalg.vecdot(a, b)


def _product(probability: Tensor, x: Tensor) -> Tensor:
    """probability * x, and 0 where the probability is 0 (0 log 0 = 0)."""
    return torch.where(probability > 0, probability * x, 0.0)


def _balanced(gradient: Tensor, p: Tensor) -> Tensor:
    """Where one entry holds most of the mass, its gradient is what the others' sum leaves: there
    the closed form subtracts nearly equal numbers."""
    top, at = p.max(-1, keepdim=True)
    surplus = torch.where(top > 0.5, gradient.sum(-1, keepdim=True), 0.0)
    return gradient.scatter_add_(-1, at, surplus.neg_())


def _plain(value: Tensor, gradient: Tensor) -> Outcome:
    return Outcome(value, gradient, value, torch.zeros_like(value, dtype=torch.bool))
