"""Divergences against float64, against TRL, and their mathematical properties."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.oracle import Oracle, assert_gradients, assert_values, magnitude
from tests.oracle import log_softmax as exact_logp
from tests.peers import GKDTrainer, compute_divergence
from torch.nn.functional import log_softmax

from opsd.objective.divergences import (
    forward_kl,
    jsd,
    pointwise_clip,
    reverse_kl,
    rows_from_logits,
)

PLAIN = {
    "forward_kl": (forward_kl, Oracle("forward_kl")),
    "reverse_kl": (reverse_kl, Oracle("reverse_kl")),
    **{f"jsd({b})": (jsd(b), Oracle("jsd", b)) for b in (0.1, 0.5, 0.9)},
}
CLIPPED = {
    f"clip({name}, {cap})": (pointwise_clip(ours, cap), Oracle(true.kind, true.beta, cap))
    for name, (ours, true) in PLAIN.items()
    for cap in (1e-3, 0.05)
}
EVERY = PLAIN | CLIPPED
# Standard deviations of the student's logits, and of the target's distance from them.
REGIMES = [(s, d) for s in (0.5, 2.0, 6.0) for d in (1e-6, 1e-3, 0.03, 0.3, 1.0, 3.0, 10.0)]


def logits(scale: float, distance: float, rows: int = 32, vocab: int = 501, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    student = torch.randn(rows, vocab, generator=generator) * scale
    return student, student + torch.randn(rows, vocab, generator=generator) * distance


def closed_form(divergence, student, target, temperature=1.0):
    rows, _ = rows_from_logits(student.clone(), target.clone(), temperature)
    result = divergence.closed_form(rows)
    return result._replace(gradient=result.gradient / temperature)


@pytest.mark.parametrize("name", ["forward_kl", "reverse_kl", "jsd(0.1)", "clip(jsd(0.9), 0.05)"])
def test_the_oracle_itself_has_the_right_gradient(name):
    true = EVERY[name][1]
    student, target = (x.double().numpy() for x in logits(2.0, 1.0, rows=2, vocab=7))
    _, gradient = true(student, target, 1.3)
    for v in range(7):
        step = np.zeros(7)
        step[v] = 1e-6
        up, down = true(student + step, target, 1.3)[0], true(student - step, target, 1.3)[0]
        np.testing.assert_allclose(gradient[:, v], (up - down) / 2e-6, atol=1e-8)


@pytest.mark.parametrize("temperature", [1.0, 1.1])
@pytest.mark.parametrize("name", PLAIN)
def test_closed_forms_equal_float64(name, temperature):
    ours, true = PLAIN[name]
    for scale, distance in REGIMES:
        student, target = logits(scale, distance)
        result = closed_form(ours, student, target, temperature)
        value, gradient = true(student, target, temperature)
        assert_values(result.value, value)
        assert torch.equal(result.value, result.unclipped) and not result.clipped.any()
        # Row by row; the floor is for rows in which both sides are sure of different tokens.
        assert_gradients(result.gradient, gradient, floor=2e-8 if distance > 3 else 1e-12)
        error = np.abs(result.gradient.double().numpy() - gradient).max()
        assert error <= 1e-5 * np.abs(gradient).max()


@pytest.mark.parametrize("temperature", [1.0, 1.1])
@pytest.mark.parametrize("name", CLIPPED)
def test_clipped_closed_forms_equal_float64(name, temperature):
    ours, true = CLIPPED[name]
    for scale, distance in REGIMES:
        student, target = logits(scale, distance)
        result = closed_form(ours, student, target, temperature)
        value, gradient = true(student, target, temperature)
        summed = magnitude(true, student, target, temperature)
        assert_values(result.value, value, summed=summed)
        error = np.abs(result.gradient.double().numpy() - gradient).max()
        assert error <= 1e-5 * np.abs(gradient).max()
        plain = Oracle(true.kind, true.beta)(student, target, temperature)[0]
        assert_values(result.unclipped, plain)
        summand = Oracle(true.kind, true.beta).summand(
            exact_logp(student.double().numpy() / temperature),
            exact_logp(target.double().numpy() / temperature),
        )[0]
        near = (np.abs(summand / true.cap - 1) < 1e-4).any(-1)
        acted = (summand > true.cap).any(-1)
        assert (result.clipped.numpy() == acted)[~near].all()


@pytest.mark.parametrize("name", EVERY)
def test_dense_form_equals_float64(name):
    ours, true = EVERY[name]
    for scale, distance in REGIMES:
        student, target = logits(scale, distance)
        student.requires_grad_()
        value = ours(log_softmax(student, -1), log_softmax(target, -1))
        value.sum().backward()
        true_value, true_gradient = true(student, target)
        if name in PLAIN:
            assert_values(value, true_value)
        else:  # what is cut off sees the rounding of float32 log-probabilities
            summed = magnitude(true, student, target)
            assert_values(value, true_value, nats=4e-7, summed=summed)
        # Log-probabilities rounded to float32 differ by up to 1e-6: a gradient of 1e-3 needs more.
        if distance >= 0.3:
            error = np.abs(student.grad.double().numpy() - true_gradient).max()
            assert error <= 1e-5 * np.abs(true_gradient).max()


@pytest.mark.parametrize("name", EVERY)
def test_dense_form_differentiates_where_some_entries_are_equal(name):
    ours, true = EVERY[name]
    student, target = logits(1.0, 1.0, rows=4, vocab=20)
    student, target = student.double(), target.double()
    target = log_softmax(torch.cat([student[:, :10], target[:, 10:]], -1), -1)
    student = log_softmax(student, -1)
    target[:, :10] = student[:, :10]
    target[:, 10:] += student[:, 10:].logsumexp(-1, True) - target[:, 10:].logsumexp(-1, True)
    leaf = student.clone().requires_grad_()
    ours(log_softmax(leaf, -1), target).sum().backward()
    # The target's rows sum to 1 by construction, so the oracle reads the same distributions.
    assert_gradients(leaf.grad, true(student, target)[1], floor=1e-12)


@pytest.mark.parametrize("name", EVERY)
def test_dense_form_takes_entries_that_no_side_has(name):
    ours, _ = EVERY[name]
    student, target = (log_softmax(x, -1) for x in logits(1.0, 1.0, rows=3, vocab=9))
    gone = torch.full((3, 2), -math.inf)
    padded = ours(torch.cat([student, gone], -1), torch.cat([target, gone], -1))
    torch.testing.assert_close(padded, ours(student, target))
    one_sided = torch.cat([student[:, 1:], gone[:, :1]], -1)
    assert torch.isfinite(jsd(0.3)(log_softmax(one_sided, -1), target)).all()
    assert torch.isinf(forward_kl(one_sided, target)).all()


def test_dense_form_keeps_leading_dimensions_and_double():
    student, target = logits(1.0, 1.0, rows=6, vocab=11)
    student, target = (log_softmax(x.double().view(2, 3, 11), -1) for x in (student, target))
    value = jsd(0.5)(student, target)
    assert value.shape == (2, 3) and value.dtype == torch.float64


@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("distance", [0.3, 3.0])
def test_values_equal_trl(beta, distance):
    student, target = logits(3.0, distance)
    ours = {0.0: forward_kl, 1.0: reverse_kl}.get(beta) or jsd(beta)
    logp = log_softmax(student, -1), log_softmax(target, -1)
    theirs = compute_divergence(*logp, beta)
    torch.testing.assert_close(ours(*logp), theirs, rtol=1e-4, atol=1e-6)
    value = closed_form(ours, student, target, 1.1).value
    gkd = GKDTrainer.generalized_jsd_loss(
        student, target, beta=beta, temperature=1.1, reduction="sum"
    )
    torch.testing.assert_close(value.sum(), gkd, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", EVERY)
def test_far_apart_rows_stay_finite(name):
    ours, true = EVERY[name]
    student = torch.zeros(4, 50)
    target = torch.zeros(4, 50)
    student[0, 3], target[0, 4] = 60.0, 60.0
    student[1, 3], target[1, 3] = 300.0, 0.0
    student[2, 0], target[2, 0] = 0.0, 300.0
    student[3, :25], target[3, 25:] = 120.0, 120.0
    result = closed_form(ours, student, target)
    value, gradient = true(student, target)
    assert_values(result.value, value, relative=1e-5 if name in PLAIN else 1e-4)
    assert_gradients(result.gradient, gradient, floor=1e-9)


rows = st.integers(0, 2**31 - 1)
scales = st.floats(0.1, 8.0)
distances = st.floats(1e-6, 12.0)
few = settings(max_examples=25, deadline=None, derandomize=True)


@few
@given(rows, scales, distances)
def test_non_negative_bounded_and_zero_at_equality(seed, scale, distance):
    student, target = logits(scale, distance, rows=8, vocab=64, seed=seed)
    for name, (ours, _) in PLAIN.items():
        value = closed_form(ours, student, target).value
        dense = ours(log_softmax(student, -1), log_softmax(target, -1))
        assert value.min() >= -1e-9 and dense.min() >= -1e-9, name
        same = closed_form(ours, student, student)
        assert not same.value.any() and not same.gradient.any(), name
    assert closed_form(jsd(0.5), student, target).value.max() <= math.log(2) + 1e-6


@few
@given(rows, scales, distances)
def test_jsd_is_symmetric(seed, scale, distance):
    student, target = logits(scale, distance, rows=8, vocab=64, seed=seed)
    for beta in (0.5, 0.2):
        there = closed_form(jsd(beta), student, target).value
        back = closed_form(jsd(1 - beta), target, student).value
        torch.testing.assert_close(there, back, rtol=2e-5, atol=2e-9)


@few
@given(rows, scales, distances, st.floats(-50, 50), st.floats(-50, 50))
def test_shift_invariant_and_permutation_equivariant(seed, scale, distance, a, b):
    student, target = logits(scale, distance, rows=8, vocab=64, seed=seed)
    # Multiples of 2^-10 can be shifted without rounding.
    grid = 2.0**10
    student, target = (x.mul(grid).round().div(grid) for x in (student, target))
    a, b = (round(x * grid) / grid for x in (a, b))
    order = torch.randperm(64, generator=torch.Generator().manual_seed(seed))
    for name, (ours, _) in PLAIN.items():
        plain = closed_form(ours, student, target)
        shifted = closed_form(ours, student + a, target + b)
        permuted = closed_form(ours, student[:, order], target[:, order])
        for other in (shifted, permuted):
            torch.testing.assert_close(other.value, plain.value, rtol=1e-5, atol=1e-8, msg=name)
        bound = 1e-5 * plain.gradient.abs().max().item() + 1e-8
        assert (shifted.gradient - plain.gradient).abs().max() <= bound, name
        assert (permuted.gradient - plain.gradient[:, order]).abs().max() <= bound, name


@few
@given(rows, scales, distances)
def test_gradient_rows_sum_to_zero(seed, scale, distance):
    student, target = logits(scale, distance, rows=8, vocab=64, seed=seed)
    for name, (ours, _) in EVERY.items():
        gradient = closed_form(ours, student, target).gradient
        bound = 1e-6 * gradient.abs().sum(-1) + (2e-7 if name in PLAIN else 1e-6)
        assert (gradient.sum(-1).abs() <= bound).all(), name


@few
@given(rows, scales, distances)
def test_clip_never_raises_and_is_idle_above_every_summand(seed, scale, distance):
    student, target = logits(scale, distance, rows=8, vocab=64, seed=seed)
    for name, (ours, _) in PLAIN.items():
        plain = closed_form(ours, student, target)
        idle = closed_form(pointwise_clip(ours, 1e4), student, target)
        assert torch.equal(idle.value, plain.value), name
        assert torch.equal(idle.gradient, plain.gradient) and not idle.clipped.any(), name
        capped = closed_form(pointwise_clip(ours, 0.01), student, target)
        assert (capped.value <= plain.value + 1e-6).all(), name
        assert torch.equal(capped.unclipped, plain.value), name


def test_statistics_of_rows():
    student, target = logits(2.0, 1.0)
    tokens = torch.arange(32)
    _, seen = rows_from_logits(student.clone(), target.clone(), 1.1, tokens)
    for side, name in ((student, "student"), (target, "teacher")):
        logp = log_softmax(side.double() / 1.1, -1)
        entropy = -(logp.exp() * logp).sum(-1)
        torch.testing.assert_close(seen[f"entropy_{name}"].double(), entropy, rtol=1e-5, atol=1e-6)
        at = "logp_student" if name == "student" else "logp_target"
        torch.testing.assert_close(
            seen[at].double(), logp[torch.arange(32), tokens], rtol=1e-5, atol=1e-6
        )


def test_formulas_are_printed():
    assert forward_kl.formula.startswith("KL(target || student)")
    assert "0.3 KL(target || m) + (1-0.3)" in jsd(0.3).formula
    assert pointwise_clip(reverse_kl, 0.05).formula.endswith("every summand capped at 0.05")
    for beta in (0.0, 1.0):
        with pytest.raises(ValueError):
            jsd(beta)
