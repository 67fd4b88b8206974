"""A token out of a distribution: cut as the sampling says, and settled by one uniform number."""

from __future__ import annotations

import torch
from torch import Tensor

from opsd.rollout.engine import Sampling

_PREFIX = 512
"""How many of the likeliest tokens are looked at first where no top-k says."""
_WIDER = 8


def drawn(logits_NV: Tensor, numbers_N: Tensor, sampling: Sampling) -> Tensor:
    """A token [N] of each distribution, cut by top-k, what that leaves by top-p, and what that
    leaves by min-p: where the cumulative distribution passes the row's number, so that a draw
    depends on that alone. Tokens as likely as the last one of top-k are kept beside it.

    A cut keeps the likeliest tokens, so that the others need no sorting: a few are looked at, and
    more of them in the rows where the cut is not among those.
    """
    if sampling.whole:
        return _where_reached(logits_NV.softmax(-1, dtype=torch.float64), numbers_N)
    tokens = torch.empty(len(logits_NV), dtype=torch.long, device=logits_NV.device)
    rows = torch.arange(len(logits_NV), device=logits_NV.device)
    size, vocab = 2 * sampling.top_k or _PREFIX, logits_NV.shape[-1]
    while len(rows):
        likeliest, ids = logits_NV[rows].topk(min(size, vocab))
        mass, inside = _cut(likeliest, logits_NV[rows], sampling)
        inside |= size >= vocab
        # In the order of ids, as the whole distribution is.
        ids, order = ids[inside].sort(-1)
        places = _where_reached(mass[inside].gather(-1, order), numbers_N[rows[inside]])
        tokens[rows[inside]] = ids.gather(-1, places.unsqueeze(-1)).squeeze(-1)
        rows, size = rows[~inside], size * _WIDER
    return tokens


def _cut(likeliest_NK: Tensor, logits_NV: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """What is left of the likeliest tokens' masses [N, K], relative to the first's, and whether the
    cut is among them [N]."""
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
    """The first place [N] at which so large a part of a row's mass is passed."""
    cumulative = mass_NK.cumsum(-1)
    reached = numbers_N.unsqueeze(-1) * cumulative[:, -1:]
    found = torch.searchsorted(cumulative, reached, right=True).squeeze(-1)
    # A number that rounds up to the whole mass falls on the last entry that has any.
    last = (mass_NK > 0).long().cumsum(-1).argmax(-1)
    return torch.minimum(found, last)
