"""The distribution that the student is trained towards, built from the teacher's views.

Every target is built on one primitive, `log_pool`, the normalised weighted product of
distributions: log target = sum_i w_i log p_i - log Z.

| target | weights | of |
| --- | --- | --- |
| `single` | 1 | the teacher |
| `mixture` | constant or scheduled | any views, and the student |
| `barycenter` | 1 - alpha, alpha | teacher and student; alpha by how far they disagree, per token |
| `purified` | 1, 1 / beta | the base, and the teacher's centred, clipped log-ratio to a probe |
| `contrastive` | 1 + alpha, -alpha | the readers of a right and of a wrong hint |
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal, NamedTuple, Protocol

import torch
from pydantic import Field
from torch import Tensor

from opsd.objective.divergences import forward_kl, jsd
from opsd.parts import Slot, part
from opsd.schedule import Number, Positive, Share


def log_pool(terms: Sequence[tuple[Tensor, float | Tensor]]) -> Tensor:
    """The logarithmic pool of distributions, as log-probabilities `[..., V]` without gradient.

    `terms` are (log-probabilities or logits `[..., V]`, weight): constants added to a row cancel.
    A weight is a number, or a tensor that broadcasts against `[..., 1]`.
    """
    pooled = sum(logp.detach() * weight for logp, weight in terms)
    return torch.log_softmax(torch.as_tensor(pooled), dim=-1)


def purified(
    teacher: Tensor,
    probe: Tensor,
    base: Tensor,
    beta: float = 1.0,
    clip: float | None = 10.0,
    centre: Literal["uniform", "base"] = "uniform",
) -> Tensor:
    """The target of Purified OPSD, log-probabilities `[..., V]`: base + clip tanh(d / clip) / beta,
    where d is teacher - probe minus its mean over the vocabulary (or under the base's
    probabilities).

    `probe` reads the reference without the question, so that d is what the question adds to it
    (arXiv 2607.02234, Eq. 6 and 13-17, 2026). All arguments are log-probabilities or logits.
    """
    d = teacher.detach() - probe.detach()
    weight = torch.softmax(base.detach(), -1) if centre == "base" else 1 / d.shape[-1]
    d = d - (d * weight).sum(-1, keepdim=True)
    return log_pool([(base, 1.0), (d if clip is None else clip * torch.tanh(d / clip), 1 / beta)])


def disagreement(teacher: Tensor, student: Tensor) -> Tensor:
    """The Jensen-Shannon divergence `[...]` of two rows of logits, in nats: 0 to ln 2."""
    rows = (torch.log_softmax(x.detach(), -1) for x in (student, teacher))
    return jsd(0.5)(*rows).clamp(0, math.log(2))


def barycenter(
    teacher: Tensor, student: Tensor, alpha: float | Tensor, floor: float = 0.0
) -> Tensor:
    """The distribution q `[..., V]` that minimises (1 - alpha) KL(q || teacher) + alpha KL(q ||
    student), as log-probabilities (DemoPSD, arXiv 2607.02502, Eq. 9-11, 2026).

    `alpha` is a number or a tensor `[...]`. The teacher's probabilities are clamped to at least
    `floor`.
    """
    if floor:
        teacher = torch.log_softmax(teacher, -1).clamp(min=math.log(floor))
    share = torch.as_tensor(alpha).unsqueeze(-1)
    return log_pool([(teacher, 1 - share), (student, share)])


def contrastive(right: Tensor, wrong: Tensor, alpha: float, floor: float | None = None) -> Tensor:
    """(1 + alpha) log right - alpha log wrong, normalised, as log-probabilities `[..., V]`: the
    distribution under a correct hint, moved away from the one under a wrong hint (RLCSD's released
    code, 2026; arXiv 2606.11709). The log-probabilities under the wrong hint are clamped to at
    least `floor`, in nats, so that an entry which it all but excludes gains at most `alpha` times
    that."""
    if floor is not None:
        wrong = torch.log_softmax(wrong, -1).clamp(min=floor)
    return log_pool([(right, 1 + alpha), (wrong, -alpha)])


_PARTS = ("reference", "question")


class TargetLogits(NamedTuple):
    """A target's logits `[N, V]`, and values to log for each row, `[N]` by name."""

    logits: Tensor
    diagnostics: Mapping[str, Tensor] = {}


STUDENT = -1
"""The student's index in comparisons; views count from 0."""


class Target(Protocol):
    """views (one `[N, V]` each), student `[N, V]` -> `TargetLogits`, without gradient.

    Inputs and outputs are logits, so a constant offset of a row does not matter. A custom target
    inherits the defaults of all attributes that it does not define.
    """

    joins_views: bool = True
    """Whether the views are combined into one distribution, which can be distilled."""
    is_view: bool = False
    """Whether the target is the single view's own distribution."""
    needs_full_support: bool = False
    comparisons: Mapping[tuple[int, int], str] = {}
    """Pairs of views, or of `STUDENT` and a view, whose divergence is traced under a name."""

    def __call__(self, views: Sequence[Tensor], student: Tensor) -> TargetLogits: ...

    @property
    def linear(self) -> tuple[Sequence[float], float] | None:
        """The weights of the views and of the student if the target's logits are their weighted
        sum, else None."""
        return None


@part
class Single(Target):
    """The single teacher's own distribution: `log_pool([(view, 1)])`."""

    type: Literal["single"] = "single"
    is_view: ClassVar[bool] = True

    def __call__(self, views: Sequence[Tensor], student: Tensor) -> TargetLogits:
        return TargetLogits(_exactly(1, views, self.type)[0])


@part
class PerView(Target):
    """Views that are not combined: a credit reads each one separately. As there is no single target
    distribution, only the signal `advantage` can use it."""

    type: Literal["per_view"] = "per_view"
    joins_views: ClassVar[bool] = False

    def __call__(self, views: Sequence[Tensor], student: Tensor) -> TargetLogits:
        return TargetLogits(views[0])


@part
class Mixture(Target):
    """The logarithmic pool of the views, with constant or scheduled weights, and of the student
    itself with weight `student`.

    beta-OPSD (arXiv 2607.28582) mixes teacher and student; SDPO's trust region (arXiv 2601.20802) a
    live and a frozen teacher; Veto multiplies the teacher by a power of the student. Views that
    share the student's head are mixed before it, which saves one pass over the vocabulary per view.
    """

    weights: Annotated[tuple[Number, ...], Field(min_length=1)] = (1.0,)
    student: Number = 0.0
    type: Literal["mixture"] = "mixture"

    def __call__(self, views: Sequence[Tensor], student: Tensor) -> TargetLogits:
        rows = _exactly(len(self.weights), views, self.type)
        return TargetLogits(weighted_sum(rows, self.weights, student, self.student))

    @property
    def linear(self) -> tuple[Sequence[float], float] | None:
        return self.weights, self.student


def weighted_sum(
    rows: Sequence[Tensor], weights: Sequence[float], student: Tensor, own: float
) -> Tensor:
    """The weighted sum of rows, plus the student's with the weight `own`: of logits, or of hidden
    states that logits are linear in."""
    mixed = sum(row * weight for row, weight in zip(rows, weights, strict=True))
    return mixed + student.detach() * own if own else torch.as_tensor(mixed)


@part
class Barycenter(Target):
    """DemoPSD's target: the more teacher and student disagree, the closer it is to the student.

    alpha = alpha_max tanh(beta d / 2) per token, where d is the Jensen-Shannon divergence of the
    two. The student's side is the second view if there is one (in the paper, the moving average of
    the student under its own prompt), else the student itself. The teacher's probabilities are
    clamped to at least `floor`. (Li et al. 2026, arXiv 2607.02502, Eq. 7-11 and Appendix B.)
    """

    alpha_max: Share = 0.15
    beta: Positive = 50.0
    floor: Annotated[float, Field(ge=0, lt=1)] = 1e-8
    type: Literal["barycenter"] = "barycenter"

    def __call__(self, views: Sequence[Tensor], student: Tensor) -> TargetLogits:
        teacher, near = views if len(views) == 2 else (_exactly(1, views, self.type)[0], student)
        d = disagreement(teacher, near)
        alpha = self.alpha_max * torch.tanh(self.beta * d / 2)
        return TargetLogits(
            barycenter(teacher, near, alpha, self.floor), {"alpha": alpha, "disagreement": d}
        )


@part
class Purified(Target):
    """Purified OPSD's target: the base, shifted by what the question adds to the reference.

    The views are the teacher, the probe that reads only the reference, and the base (the student's
    prompt), all with the same weights. The paper's centre is the plain mean over the vocabulary,
    which the improbable tail dominates; `centre="base"` weights by the base's probabilities. (Shen
    et al. 2026, arXiv 2607.02234, Eq. 13-17.)
    """

    beta: Positive = 1.0
    clip: Annotated[float, Field(gt=0)] | None = 10.0
    centre: Literal["uniform", "base"] = "uniform"
    type: Literal["purified"] = "purified"
    needs_full_support: ClassVar[bool] = True
    comparisons: ClassVar[Mapping[tuple[int, int], str]] = {
        (STUDENT, 0): "whole",
        (STUDENT, 1): "reference",
        (STUDENT, 2): "base",
        (1, 0): "question",
    }

    def __call__(self, views: Sequence[Tensor], student: Tensor) -> TargetLogits:
        teacher, probe, base = _exactly(3, views, self.type)
        target = purified(teacher, probe, base, self.beta, self.clip, self.centre)
        return TargetLogits(target, decomposition(teacher, probe, student))


@part
class Contrastive(Target):
    """The distribution under a correct hint, moved away from the one under a wrong hint by `alpha`.
    The log-probabilities under the wrong hint are clamped to at least `floor`, in nats. The two
    views come in this order (RLCSD's released code, 2026, arXiv 2606.11709: alpha 0.5, floor -5,
    over the 100 entries that are likeliest under the correct hint, and a tail). `target/contrast`
    is KL(right || wrong) of every row, in nats.
    """

    alpha: Annotated[float, Field(ge=0)] = 0.5
    floor: Annotated[float, Field(lt=0)] | None = -5.0
    type: Literal["contrastive"] = "contrastive"

    def __call__(self, views: Sequence[Tensor], student: Tensor) -> TargetLogits:
        right, wrong = _exactly(2, views, self.type)
        logp = (torch.log_softmax(x.detach(), -1) for x in (wrong, right))
        return TargetLogits(
            contrastive(right, wrong, self.alpha, self.floor), {"contrast": forward_kl(*logp)}
        )


def decomposition(teacher: Tensor, probe: Tensor, student: Tensor) -> dict[str, Tensor]:
    """The teacher's signal, teacher - student, in two parts: what the reference alone induces
    (probe - student) and what the question adds (teacher - probe). Per row: each part's cosine with
    the whole and its share of the whole's length (arXiv 2607.02234, section 3); with the prefix
    `p_`, the same with entries weighted by the student's probability, so that the improbable tail
    cannot dominate."""
    t, r, s = (torch.log_softmax(x.detach(), -1) for x in (teacher, probe, student))
    whole, parts = t - s, dict(zip(_PARTS, (r - s, t - r), strict=True))
    seen = {}
    for mark, weight in (("", torch.ones(())), ("p_", s.exp())):
        length = _norm(whole, weight)
        for name, one in parts.items():
            own = _norm(one, weight)
            inner = (whole * one * weight).sum(-1)
            seen[f"{mark}cosine_{name}"] = inner / (length * own).clamp(min=1e-12)
            seen[f"{mark}share_{name}"] = own / length.clamp(min=1e-12)
    return seen


def _norm(rows: Tensor, weight: Tensor) -> Tensor:
    return (rows * rows * weight).sum(-1).sqrt()


def _exactly(count: int, views: Sequence[Tensor], name: str) -> Sequence[Tensor]:
    if len(views) != count:
        told = "one view" if count == 1 else f"{count} views"
        raise ValueError(f"the target '{name}' takes {told}, the context gave {len(views)}")
    return views


AnyTarget = Annotated[
    Target, Slot("target", Target, (Single, PerView, Mixture, Barycenter, Purified, Contrastive))
]
