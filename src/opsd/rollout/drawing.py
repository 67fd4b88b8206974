"""A token out of a distribution: cut as the sampling says, and settled by one uniform number."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import LogitsProcessorList, MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from opsd.rollout.engine import Sampling


def warpers_of(sampling: Sampling) -> LogitsProcessorList:
    """What cuts a distribution."""
    warpers = LogitsProcessorList()
    if sampling.top_k > 0:
        warpers.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        warpers.append(TopPLogitsWarper(sampling.top_p))
    if sampling.min_p > 0:
        warpers.append(MinPLogitsWarper(sampling.min_p))
    return warpers


def drawn(logp_NV: Tensor, numbers_N: Tensor, warpers: LogitsProcessorList) -> Tensor:
    """A token [N] of each distribution, cut first: where the cumulative distribution passes the
    row's number, so that a draw depends on that alone."""
    logits = warpers(None, logp_NV)  # type: ignore[arg-type]
    cumulative = logits.softmax(-1, dtype=torch.float64).cumsum(-1)
    reached = numbers_N.unsqueeze(-1) * cumulative[:, -1:]
    found = torch.searchsorted(cumulative, reached, right=True).squeeze(-1)
    # A number that rounds up to the whole mass falls on the last entry that has any.
    last = (logits > float("-inf")).long().cumsum(-1).argmax(-1)
    return torch.minimum(found, last)
