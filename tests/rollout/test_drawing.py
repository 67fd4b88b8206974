"""A token out of a cut distribution, against the definition in float64 and Transformers' cuts."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import LogitsProcessorList, MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from opsd.rollout import drawing
from opsd.rollout.drawing import drawn
from opsd.rollout.engine import Sampling

VOCAB = 700
CUTS = [
    {"top_k": k, "top_p": p, "min_p": m}
    for k, p, m in product((0, 1, 7, 2000), (1.0, 0.9, 0.3, 1e-6), (0.0, 0.05))
]


def distributions(sharpness: float, n: int = 6) -> Tensor:
    draw = torch.Generator().manual_seed(int(10 * sharpness))
    return (sharpness * torch.randn(n, VOCAB, generator=draw)).log_softmax(-1)


def oracle(logits: Tensor, sampling: Sampling) -> np.ndarray:
    """Probabilities of one distribution after the cuts, each of what the last one left."""
    p = np.exp(logits.double().numpy() - logits.max().item())
    order = np.argsort(-p, kind="stable")
    if sampling.top_k:
        p = np.where(p >= p[order[min(sampling.top_k, len(p)) - 1]], p, 0)
    p /= p.sum()
    left, before = np.zeros_like(p), 0.0
    for i in order:
        if before < sampling.top_p or sampling.top_p == 1:
            left[i] = p[i]
        before += p[i]
    left[left < sampling.min_p * left.max()] = 0
    return left / left.sum()


def read_out(logits: Tensor, number: float, sampling: Sampling) -> int:
    """Where the oracle's cumulative distribution passes a number."""
    return int(np.searchsorted(np.cumsum(oracle(logits, sampling)), number, side="right"))


@pytest.mark.parametrize("cut", CUTS, ids=str)
def test_a_token_is_where_the_cut_distribution_passes_the_number(cut, monkeypatch):
    # Small enough that some rows are looked at once, some again, and some whole.
    monkeypatch.setattr(drawing, "_PREFIX", 8)
    sampling = Sampling(**cut)
    logits = torch.cat([distributions(s) for s in (0.1, 1.0, 4.0)])
    for number in (0.0, 0.013, 0.37, 0.5, 0.92, 0.9999):
        numbers = torch.full((len(logits),), number).double()
        told = drawn(logits, numbers, sampling).tolist()
        assert told == [read_out(row, number, sampling) for row in logits]


@pytest.mark.parametrize("cut", [c for c in CUTS if c["top_k"] != 2000], ids=str)
def test_what_is_kept_is_what_transformers_keeps(cut):
    sampling, logits = Sampling(**cut), distributions(2.0, n=1)
    warpers = LogitsProcessorList()
    if sampling.top_k:
        warpers.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        warpers.append(TopPLogitsWarper(sampling.top_p))
    if sampling.min_p:
        warpers.append(MinPLogitsWarper(sampling.min_p))
    theirs = warpers(None, logits.clone()).softmax(-1)[0]
    numbers = torch.linspace(0, 1, 5001, dtype=torch.float64)[:-1]
    ours = drawn(logits.expand(len(numbers), -1), numbers, sampling)
    share = torch.bincount(ours, minlength=VOCAB) / len(numbers)
    assert (share - theirs).abs().max() < 1 / len(numbers) + 1e-6
    assert not share[theirs == 0].any()


@pytest.mark.parametrize("block", [1, 7, 350, VOCAB, 1000])
def test_how_the_vocabulary_is_divided_changes_no_token(block, monkeypatch):
    monkeypatch.setattr(drawing, "_BLOCK", block)
    logits = distributions(2.0)
    for number in (0.0, 0.013, 0.37, 0.92, 1 - 2**-53):
        numbers = torch.full((len(logits),), number).double()
        told = drawn(logits, numbers, Sampling()).tolist()
        last = VOCAB - 1  # the oracle's cumulative distribution may end below the last number
        assert told == [min(read_out(row, number, Sampling()), last) for row in logits]


def test_logits_need_not_be_normalised_and_some_may_be_impossible():
    sampling = Sampling(top_p=0.8)
    logits = distributions(1.0) + 3.0
    logits[:, ::3] = float("-inf")
    numbers = torch.linspace(0, 0.99, len(logits)).double()
    told = drawn(logits, numbers, sampling).tolist()
    pairs = zip(logits, numbers.tolist(), strict=True)
    assert told == [read_out(row, number, sampling) for row, number in pairs]
    assert not any(token % 3 == 0 for token in told)


def test_tokens_as_likely_as_the_last_of_top_k_are_kept_however_many():
    logits = torch.zeros(1, VOCAB)
    logits[0, 5] = 1.0
    numbers = torch.linspace(0, 1, 2 * VOCAB, dtype=torch.float64)
    told = drawn(logits.expand(len(numbers), -1), numbers, Sampling(top_k=2))
    assert set(told.tolist()) == set(range(VOCAB))


def test_a_number_that_rounds_up_to_the_whole_mass_falls_on_a_token_that_has_any():
    logits = torch.full((1, VOCAB), float("-inf"))
    logits[0, :3] = 0.0
    for sampling in (Sampling(), Sampling(top_p=0.99), Sampling(min_p=0.1)):
        assert drawn(logits, torch.ones(1).double(), sampling).tolist() == [2]
