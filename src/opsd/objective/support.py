"""The vocabulary entries over which student and teacher are compared; applied before the target."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, ClassVar, Literal, NamedTuple, Protocol

import torch
from pydantic import Field
from torch import Tensor

from opsd.parts import Slot, part


class Restricted(NamedTuple):
    """Student and views over common entries `[N, S]`; `expand`, which maps a gradient with respect
    to the restricted student's logits `[N, S]` to one with respect to its full logits `[N, V]`; and
    values to log for each row, `[N]` by name."""

    student: Tensor
    views: Sequence[Tensor]
    expand: Callable[[Tensor], Tensor]
    diagnostics: Mapping[str, Tensor] = {}


_SIDES = ("student", "teacher")
"""The sides whose probability of the chosen entries is logged: the student and the first view."""


class Support(Protocol):
    """student `[N, V]`, views (each `[N, V]`), their names -> the same over common entries.

    All are logits that are not yet divided by `temperature`. A custom support inherits the defaults
    of all attributes that it does not define.
    """

    is_full: bool = False
    """Whether it keeps the whole vocabulary."""

    def __call__(
        self,
        student: Tensor,
        views: Sequence[Tensor],
        names: Sequence[str],
        temperature: float = 1.0,
    ) -> Restricted: ...


@part
class Full(Support):
    """The whole vocabulary: exact."""

    type: Literal["full"] = "full"
    is_full: ClassVar[bool] = True

    def __call__(
        self,
        student: Tensor,
        views: Sequence[Tensor],
        names: Sequence[str],
        temperature: float = 1.0,
    ) -> Restricted:
        return Restricted(student, views, _as_it_is)


@part
class TopK(Support):
    """The `k` likeliest entries of the student, or of the view named `by`.

    The remaining mass becomes one more entry (`rest="tail"`: the divergence is then a lower bound
    of the full one), or is dropped and both sides are renormalised (`rest="renormalise"`).
    """

    k: Annotated[int, Field(gt=0)] = 100
    by: str = "student"
    rest: Literal["tail", "renormalise"] = "tail"
    type: Literal["top_k"] = "top_k"

    def __call__(
        self,
        student: Tensor,
        views: Sequence[Tensor],
        names: Sequence[str],
        temperature: float = 1.0,
    ) -> Restricted:
        chooser = student if self.by == "student" else views[_index(self.by, names)]
        ids = chooser.topk(min(self.k, chooser.shape[-1]), dim=-1).indices
        sides = zip(_SIDES, (student, *views[:1]), strict=False)
        masses = {name: _mass(logits, ids, temperature) for name, logits in sides}
        if self.rest == "renormalise" or ids.shape[-1] == student.shape[-1]:

            def put_back(gradient: Tensor) -> Tensor:
                return torch.zeros_like(student).scatter_(-1, ids, gradient)

            chosen = [view.gather(-1, ids) for view in views]
            return Restricted(student.gather(-1, ids), chosen, put_back, masses)
        restricted = _with_tail(student, ids, temperature)
        tail = restricted[..., -1:].clone()

        def expand(gradient: Tensor) -> Tensor:
            # The tail's gradient is shared among its entries in proportion to their probability.
            share = torch.exp((student - tail) / temperature)
            return share.mul_(gradient[..., -1:]).scatter_(-1, ids, gradient[..., :-1])

        others = [_with_tail(view, ids, temperature) for view in views]
        return Restricted(restricted, others, expand, masses)


def _as_it_is(gradient: Tensor) -> Tensor:
    return gradient


def _index(name: str, names: Sequence[str]) -> int:
    if name not in names:
        raise ValueError(f"top_k by '{name}': no such view; the context gives {', '.join(names)}")
    return names.index(name)


def _mass(logits: Tensor, ids: Tensor, temperature: float) -> Tensor:
    tempered = logits / temperature
    return torch.exp(tempered.gather(-1, ids).logsumexp(-1) - tempered.logsumexp(-1))


def _with_tail(logits: Tensor, ids: Tensor, temperature: float) -> Tensor:
    """The logits of `ids`, and one logit for everything else, summed without cancellation."""
    outside = (logits / temperature).scatter_(-1, ids, float("-inf")).logsumexp(-1, keepdim=True)
    floor = torch.finfo(logits.dtype).min / 1e4
    tail = outside.mul_(temperature).clamp_(min=floor)
    return torch.cat([logits.gather(-1, ids), tail], dim=-1)


AnySupport = Annotated[Support, Slot("support", Support, (Full, TopK))]
