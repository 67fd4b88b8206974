"""The only reducer: sum of coefficient x scale x loss over a step's tokens, per signal.

Scales and denominators are counted once per optimizer step, over all micro-batches and ranks, so
that neither gradient accumulation nor the number of processes changes a gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from opsd.methods.signals import LossTerm, taught
from opsd.objective.fused import fused_terms
from opsd.objective.head import Head, View
from opsd.objective.kernels import KernelName
from opsd.objective.table import TokenTable


@dataclass(frozen=True)
class TermCounts:
    """One signal's share in a step: the factor of each rollout's tokens [R] on this rank, and this
    rank's part of the denominator."""

    factor_R: Tensor
    count: float


@dataclass(frozen=True)
class TermInputs:
    """One signal on one micro-batch: its coefficient, its views' rows, which rollouts it teaches
    [R], the factor of each rollout's tokens [R], denominator included, and the scales of its
    views [R], by name."""

    coefficient: float
    leaf: LossTerm
    views: Sequence[View]
    taught_R: Tensor
    factor_R: Tensor
    temperature: float
    scales: dict[str, Tensor] = field(default_factory=dict[str, Tensor])


def count_term(
    leaf: LossTerm,
    markup: Sequence[Tensor],
    groups: Sequence[int],
    taught_R: Sequence[bool],
    limit: int,
) -> TermCounts:
    """Counts a signal's tokens over this rank's rollouts of a step.

    `markup` says of every rollout's tokens whether they are markup, `groups` are group numbers,
    `limit` is the completion limit in tokens (the divisor of `unit="constant"`).
    """
    kept = [int(taught(leaf, torch.arange(len(m)), m).sum()) for m in markup]
    own = [n if yes else 0 for n, yes in zip(kept, taught_R, strict=True)]
    tokens = torch.tensor(own, dtype=torch.float64)
    group = torch.tensor(groups, dtype=torch.long)
    divisor, count = _divisor(leaf.reduction.unit, tokens, group, limit)
    if leaf.reduction.over == "all":
        every = torch.tensor(kept, dtype=torch.float64)
        _, count = _divisor(leaf.reduction.unit, every, group, limit)
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
    """The micro-batch's loss (a sum: already divided by the step's denominators), and for every
    signal its token losses [N] before scaling and its table, detached. A signal that teaches none
    of these rollouts has no views and costs nothing."""
    live = [term_inputs for term_inputs in inputs if bool(term_inputs.taught_R.any())]
    scales = [_scale(term_inputs, table) for term_inputs in live]
    terms = [
        term_inputs.leaf.term(term_inputs.views, term_inputs.temperature) for term_inputs in live
    ]
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
    seen = {
        id(term_inputs): (torch.zeros_like(table.logp_sampler), table) for term_inputs in inputs
    }
    for term_inputs, scale, value, columns in zip(live, scales, values, statistics, strict=True):
        seen_here = {name: c.detach() for name, c in columns.items()}
        own = replace(table, statistics=seen_here, scales=term_inputs.scales)
        # Rows outside the signal may hold anything, infinities and NaN included: they are selected
        # out of the sum, and out of what the sum is differentiated by.
        inside = scale != 0
        losses = term_inputs.leaf.losses(torch.where(inside, value, value.detach()), own)
        loss = loss + torch.where(inside, losses * scale, 0.0).sum()
        seen[id(term_inputs)] = losses.detach(), own
    return loss, list(seen.values())


def _planned(inputs: Sequence[TermInputs], scales: Sequence[Tensor]) -> list[Tensor] | None:
    """What each term's values will be multiplied with, where that is known beforehand."""
    slopes = [term_inputs.leaf.slope for term_inputs in inputs]
    known = [scale * s for scale, s in zip(scales, slopes, strict=True) if s is not None]
    return known if len(known) == len(inputs) else None


def _scale(term_inputs: TermInputs, table: TokenTable) -> Tensor:
    inside = term_inputs.taught_R[table.rollout] & taught(
        term_inputs.leaf, table.position, table.markup
    )
    return torch.where(inside, term_inputs.factor_R[table.rollout] * term_inputs.coefficient, 0.0)


def _divisor(unit: str, tokens: Tensor, group: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """What each rollout's tokens are divided by [R], and how many units there are."""
    if unit == "token":
        return torch.ones_like(tokens), tokens.sum()
    if unit == "sequence":
        return tokens, (tokens > 0).sum()
    if unit == "group":
        groups = int(group.max()) + 1 if len(group) else 0
        per_group = tokens.new_zeros(groups).index_add(0, group, tokens)
        return per_group[group], (per_group > 0).sum()
    return torch.full_like(tokens, limit), (tokens > 0).sum()
