"""Draws a token from a distribution, truncated by the sampling settings, with one uniform
number."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from opsd.rollout.engine import Sampling

_PREFIX = 512
"""The number of likeliest tokens that are examined first if there is no top-k."""
_WIDER = 8
_BLOCK = 512
"""The number of entries whose mass is summed before any of them is looked at."""


def drawn(logits_NV: Tensor, numbers_N: Tensor, sampling: Sampling) -> Tensor:
    """Draw a token [N] from each distribution, truncated by top-k, then top-p, then min-p. The
    token is where the cumulative distribution passes the row's number, so that a draw depends on
    nothing else. Ties with the last token of top-k are kept.

    Truncation keeps the likeliest tokens, so the others need no sorting: a few are examined, and
    more only in rows whose truncation point is not among them.
    """
    if sampling.whole:
        return _where_reached(logits_NV.softmax(-1), numbers_N)
    tokens = torch.empty(len(logits_NV), dtype=torch.long, device=logits_NV.device)
    rows = torch.arange(len(logits_NV), device=logits_NV.device)
    size, vocab = 2 * sampling.top_k or _PREFIX, logits_NV.shape[-1]
    while len(rows):
        likeliest, ids = logits_NV[rows].topk(min(size, vocab))
        mass, inside = _cut(likeliest, logits_NV[rows], sampling)
        inside |= size >= vocab
        # In the order of ids, like the whole distribution.
        ids, order = ids[inside].sort(-1)
        places = _where_reached(mass[inside].gather(-1, order), numbers_N[rows[inside]])
        tokens[rows[inside]] = ids.gather(-1, places.unsqueeze(-1)).squeeze(-1)
        rows, size = rows[~inside], size * _WIDER
    return tokens


def _cut(likeliest_NK: Tensor, logits_NV: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """The masses [N, K] of the likeliest tokens after truncation, relative to the first's, and
    whether the truncation point is among them [N]."""
    first = likeliest_NK[:, :1]
    mass = (likeliest_NK - first).double().exp()
    kept = torch.ones_like(mass, dtype=torch.bool)
    inside = torch.zeros_like(kept[:, 0])
    if sampling.top_k:
        last = likeliest_NK[:, min(sampling.top_k, likeliest_NK.shape[1]) - 1]
        kept = likeliest_NK >= last.unsqueeze(-1)
        inside = ~kept[:, -1]
    if sampling.top_p < 1:
        of_all = mass * kept if sampling.top_k else (logits_NV - first).exp()
        before = mass.cumsum(-1) - mass
        kept &= before < sampling.top_p * of_all.sum(-1, keepdim=True, dtype=torch.float64)
    kept &= mass >= sampling.min_p
    if not sampling.top_k:
        inside = ~kept[:, -1]
    return mass * kept, inside


def _where_reached(mass_NK: Tensor, numbers_N: Tensor) -> Tensor:
    """The first index [N] at which the cumulative mass passes this share of a row's mass. Only the
    block in which that happens is accumulated entry by entry."""
    size = mass_NK.shape[-1]
    whole = size - size % _BLOCK
    blocks_NS = mass_NK[:, :whole].unflatten(-1, (whole // _BLOCK, _BLOCK)).sum(-1)
    rest_N1 = mass_NK[:, whole:].sum(-1, keepdim=True)
    ends_NS = torch.cat([blocks_NS, rest_N1], -1).double().cumsum(-1)
    reached_N1 = numbers_N.unsqueeze(-1) * ends_NS[:, -1:]
    block_N1 = _first_past(ends_NS, reached_N1)
    columns_NB = block_N1 * _BLOCK + torch.arange(_BLOCK, device=mass_NK.device)
    inside_NB = mass_NK.gather(-1, columns_NB.clamp(max=size - 1)) * (columns_NB < size)
    before_N1 = pad(ends_NS, (1, 0)).gather(-1, block_N1)
    place_N1 = _first_past(before_N1 + inside_NB.double().cumsum(-1), reached_N1)
    return (block_N1 * _BLOCK + place_N1).squeeze(-1)


def _first_past(sums_NK: Tensor, reached_N1: Tensor) -> Tensor:
    """The first index [N, 1] whose cumulative sum is larger than `reached`; the last one that adds
    anything if rounding has left none larger."""
    last_N1 = torch.searchsorted(sums_NK, sums_NK[:, -1:].contiguous())
    return torch.minimum(torch.searchsorted(sums_NK, reached_N1, right=True), last_N1)
