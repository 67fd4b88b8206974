"""The only place where losses are reduced: per loss term, sum of coefficient x scale x loss over a
step's tokens.

Scales and denominators are counted once per optimizer step, over all micro-batches and ranks, so
that neither gradient accumulation nor the number of processes changes a gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

import torch
from torch import Tensor

from opsd.objective.fused import fused_terms
from opsd.objective.head import Head, TeacherHidden
from opsd.objective.kernels import KernelName
from opsd.objective.table import TokenTable
from opsd.objective.terms import Term
from opsd.parts import part


@part
class Reduction:
    """How token losses become one number.

    `unit="token"` averages over tokens, `"sequence"` averages each rollout's mean, `"group"` each
    group's mean, `"constant"` divides each rollout's sum by the completion limit (Dr. GRPO). A
    unit's mean is over the tokens that this loss term teaches. `over="taught"` counts the units in
    which it teaches any token, `"all"` every unit of the step.
    """

    unit: Literal["token", "sequence", "group", "constant"] = "token"
    over: Literal["taught", "all"] = "taught"
    type: Literal["reduction"] = "reduction"


class LossTerm(Protocol):
    """What is summed: builds a term for the fused loop from the teacher's views, and turns its
    values [N] into losses [N]. It never reduces."""

    reduction: Reduction

    def term(self, views: Sequence[TeacherHidden], temperature: float) -> Term: ...
    def losses(self, values: Tensor, table: TokenTable) -> Tensor: ...
    def taught(self, position: Tensor, special: Tensor | None = None) -> Tensor:
        """Which tokens of a taught rollout are trained on [N], by their position [N] and by whether
        they are special tokens [N] (by default, none is)."""
        ...

    @property
    def slope(self) -> float | None:
        """The factor between losses and values, if it is a single number known in advance, else
        None."""
        ...


@dataclass(frozen=True)
class TermCounts:
    """One loss term's counts in a step: the factor of each rollout's tokens [R] on this rank, and
    this rank's part of the denominator."""

    factor_R: Tensor
    count: float


@dataclass(frozen=True)
class TermInputs:
    """One loss term on one micro-batch: its coefficient, its views' rows, which rollouts it teaches
    [R], the factor of each rollout's tokens [R] including the denominator, and the scales of its
    views [R], by name."""

    coefficient: float
    loss_term: LossTerm
    views: Sequence[TeacherHidden]
    taught_R: Tensor
    factor_R: Tensor
    temperature: float
    scales: dict[str, Tensor] = field(default_factory=dict[str, Tensor])


def count_term(
    loss_term: LossTerm,
    rows: Sequence[tuple[Tensor, Tensor]],
    groups: Sequence[int],
    taught_R: Sequence[bool],
    limit: int,
) -> TermCounts:
    """Counts a loss term's tokens over this rank's rollouts of a step.

    `rows` contains, for every rollout, its tokens' positions and whether they are special tokens.
    `groups` are group numbers, `limit` is the completion limit in tokens (the divisor of
    `unit="constant"`).
    """
    kept = [int(loss_term.taught(*own).sum()) for own in rows]
    own = [n if yes else 0 for n, yes in zip(kept, taught_R, strict=True)]
    tokens = torch.tensor(own, dtype=torch.float64)
    group = torch.tensor(groups, dtype=torch.long)
    unit = loss_term.reduction.unit
    divisor, count = _divisor(unit, tokens, group, limit)
    if loss_term.reduction.over == "all":
        _, count = _divisor(unit, torch.tensor(kept, dtype=torch.float64), group, limit)
    factor = torch.where(tokens > 0, 1 / divisor.clamp(min=1), 0.0)
    return TermCounts(factor.float(), float(count))


def total(
    student_ND: Tensor,
    head: Head,
    tokens_N: Tensor,
    table: TokenTable,
    inputs: Sequence[TermInputs],
    *,
    chunk_rows: int | None = None,
    kernel: KernelName = "auto",
) -> tuple[Tensor, list[tuple[Tensor, TokenTable]]]:
    """The micro-batch's loss (a sum, already divided by the step's denominators), and, for every
    loss term, its token losses [N] before scaling and its table, detached. A term that teaches none
    of these rollouts has no views and costs nothing."""
    live = [own for own in inputs if bool(own.taught_R.any())]
    scales = [_scale(own, table) for own in live]
    terms = [own.loss_term.term(own.views, own.temperature) for own in live]
    planned = _planned(live, scales)
    values, statistics = (
        fused_terms(
            student_ND,
            head,
            terms,
            tokens_N,
            chunk_rows=chunk_rows,
            planned=planned,
            kernel=kernel,
        )
        if live
        else ([], [])
    )
    loss = student_ND.sum(dtype=torch.float32) * 0.0
    results = {id(own): (torch.zeros_like(table.logp_sampler), table) for own in inputs}
    for own, scale, value, columns in zip(live, scales, values, statistics, strict=True):
        columns = {name: column.detach() for name, column in columns.items()}
        seen = replace(table, statistics=columns, scales=own.scales, logged={})
        # Rows outside the term may contain anything, including infinities and NaN: they are masked
        # out of the sum and out of its gradient.
        inside = scale != 0
        losses = own.loss_term.losses(torch.where(inside, value, value.detach()), seen)
        loss = loss + torch.where(inside, losses * scale, 0.0).sum()
        results[id(own)] = losses.detach(), seen
    return loss, list(results.values())


def _planned(inputs: Sequence[TermInputs], scales: Sequence[Tensor]) -> list[Tensor] | None:
    """The numbers that each term's values will be multiplied by, if known in advance, else None."""
    slopes = [own.loss_term.slope for own in inputs]
    known = [scale * s for scale, s in zip(scales, slopes, strict=True) if s is not None]
    return known if len(known) == len(inputs) else None


def _scale(own: TermInputs, table: TokenTable) -> Tensor:
    inside = own.taught_R[table.rollout] & own.loss_term.taught(table.position, table.special)
    return torch.where(inside, own.factor_R[table.rollout] * own.coefficient, 0.0)


def _divisor(unit: str, tokens: Tensor, group: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """The divisor of each rollout's tokens [R], and the number of units."""
    if unit == "token":
        return torch.ones_like(tokens), tokens.sum()
    if unit == "sequence":
        return tokens, (tokens > 0).sum()
    if unit == "group":
        groups = int(group.max()) + 1 if len(group) else 0
        per_group = tokens.new_zeros(groups).index_add(0, group, tokens)
        return per_group[group], (per_group > 0).sum()
    return torch.full_like(tokens, limit), (tokens > 0).sum()
