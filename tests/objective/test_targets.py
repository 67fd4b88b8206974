"""Targets: the logarithmic pool and what is built on it."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.oracle import log_softmax as exact_logp
from torch.nn.functional import log_softmax

from opsd.objective.targets import Single, log_pool

few = settings(max_examples=25, deadline=None, derandomize=True)
seeds = st.integers(0, 2**31 - 1)
weights = st.floats(-2.0, 2.0)


def views(seed: int, rows: int = 4, vocab: int = 33) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(rows, vocab, generator=generator) * 3 for _ in range(2))
    return a, b


@few
@given(seeds, weights, weights)
def test_pool_is_the_normalised_weighted_product(seed, w, v):
    a, b = views(seed)
    pooled = log_pool([(a, w), (b, v)])
    true = exact_logp(w * exact_logp(a.double().numpy()) + v * exact_logp(b.double().numpy()))
    np.testing.assert_allclose(pooled.double().numpy(), true, atol=1e-5)
    assert pooled.logsumexp(-1).abs().max() < 1e-5


@few
@given(seeds, weights, weights, st.floats(-30, 30))
def test_pool_ignores_offsets_and_follows_permutations(seed, w, v, offset):
    a, b = views(seed)
    plain = log_pool([(a, w), (b, v)])
    torch.testing.assert_close(log_pool([(a + offset, w), (b, v)]), plain, rtol=0, atol=1e-4)
    order = torch.randperm(a.shape[-1], generator=torch.Generator().manual_seed(seed))
    moved = log_pool([(a[:, order], w), (b[:, order], v)])
    torch.testing.assert_close(moved, plain[:, order], rtol=1e-6, atol=1e-5)


def test_pool_of_one_is_that_one():
    a, b = views(0)
    assert torch.equal(log_pool([(a, 1.0), (b, 0.0)]), log_softmax(a, -1))
    assert torch.equal(log_pool([(a, 1.0)]), log_softmax(a, -1))
    logp = log_softmax(a.double(), -1)
    torch.testing.assert_close(log_pool([(logp, 1.0)]), logp, rtol=0, atol=1e-14)


def test_pool_takes_a_weight_per_row():
    a, b = views(1)
    w = torch.tensor([0.0, 0.25, 0.5, 1.0]).unsqueeze(-1)
    pooled = log_pool([(a, 1 - w), (b, w)])
    for i in range(4):
        row = log_pool([(a[i], 1 - w[i].item()), (b[i], w[i].item())])
        torch.testing.assert_close(pooled[i], row)


def test_no_gradient_reaches_a_view():
    a, b = (x.requires_grad_() for x in views(2))
    assert not log_pool([(a, 0.5), (b, 0.5)]).requires_grad


def test_single_takes_exactly_one_view():
    a, b = views(3)
    assert Single()((a,), b) is a
    with pytest.raises(ValueError, match="takes one view, the context gave 2"):
        Single()((a, b), b)
