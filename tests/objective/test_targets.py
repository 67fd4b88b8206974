"""Targets: the logarithmic pool and what is built on it."""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests import oracle_targets as exact
from tests.oracle import log_softmax as exact_logp
from torch.nn.functional import log_softmax

from opsd.objective.targets import (
    Barycenter,
    Contrastive,
    Mixture,
    Purified,
    Single,
    barycenter,
    contrastive,
    log_pool,
    purified,
)

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
    assert Single()((a,), b).logits is a
    with pytest.raises(ValueError, match="takes one view, the context gave 2"):
        Single()((a, b), b)


T, R, B, S, E = (exact.rows(seed) for seed in range(5))
U = exact.uniform_like(T)
close = partial(np.testing.assert_allclose, atol=2e-5, rtol=1e-5)


def ours(target, views, student=S):
    """A target of float32 rows, normalised, as float64."""
    aim = target(
        [torch.tensor(v, dtype=torch.float32) for v in views], torch.tensor(student).float()
    )
    return log_softmax(aim.logits.double(), -1).numpy(), {
        k: v.numpy() for k, v in aim.diagnostics.items()
    }


@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("clip", [1.0, 10.0, None])
@pytest.mark.parametrize("centre", ["uniform", "base"])
def test_purified_is_the_papers_formula(beta, clip, centre):
    made, _ = ours(Purified(beta, clip, centre), (T, R, B))
    close(made, exact.purified(T, R, B, beta, clip, B if centre == "base" else None))
    close(np.exp(made).sum(-1), 1)
    shifted = [row + np.arange(7)[:, None] for row in (T, R, B)]
    close(ours(Purified(beta, clip, centre), shifted)[0], made)
    order = np.random.default_rng(0).permutation(T.shape[-1])
    permuted = ours(Purified(beta, clip, centre), [row[:, order] for row in (T, R, B)])[0]
    close(permuted, made[:, order])


def test_purified_without_information_from_the_question_is_the_base():
    close(ours(Purified(), (T, T, B))[0], B)
    close(ours(Purified(beta=1e9), (T, R, B))[0], B)


def test_purified_is_the_teacher_only_where_probe_and_base_are_one():
    whole = Purified(clip=None)
    close(ours(whole, (T, B, B))[0], T)
    close(ours(whole, (T, U, U))[0], T)
    with_uniform_probe, _ = ours(whole, (T, U, B))
    close(with_uniform_probe, exact.pool([(B, 1.0), (T, 1.0)]))
    assert np.abs(with_uniform_probe - T).max() > 1
    # If question and reference are independent given the problem, the reference cancels.
    prior, question, reference = (exact.rows(seed, scale=1.0) for seed in (11, 12, 13))
    teacher = exact.pool([(question, 1.0), (reference, 1.0), (prior, -1.0)])
    sharpened = exact.pool([(question, 2.0), (prior, -1.0)])
    close(ours(whole, (teacher, reference, question))[0], sharpened)


@pytest.mark.parametrize(("beta", "clip"), [(0.7, 10.0), (1.0, 3.0), (2.0, None)])
def test_purified_maximises_its_objective_and_moves_no_further_than_its_clip(beta, clip):
    teacher, probe = 4 * T, 4 * R
    made = exact.purified(teacher, probe, B, beta, clip)
    close(ours(Purified(beta, clip), (teacher, probe, B))[0], made, atol=1e-4)
    d = exact.pulled(teacher, probe, clip)

    def objective(q):
        return (np.exp(q) * d).sum(-1) - beta * exact.kl(q, B)

    close(objective(made), beta * np.log(np.exp(B + d / beta).sum(-1)))
    close(objective(made) - objective(E), beta * exact.kl(E, made))
    if clip is not None:
        made, _ = ours(Purified(beta, clip), (teacher, probe, B))
        assert (np.ptp(made - B, axis=-1) <= 2 * clip / beta + 1e-4).all()
        assert (exact.kl(made, B) <= 2 * clip / beta).all()


@pytest.mark.parametrize(("d", "error"), [(1.0, 0.003), (2.0, 0.026), (5.0, 0.38), (10.0, 2.38)])
def test_the_soft_clip_is_the_identity_only_near_zero(d, error):
    moved = exact.pulled(np.array([[d, -d]]), np.zeros((1, 2)))
    made = purified(torch.tensor([[d, -d]]), torch.zeros(1, 2), torch.zeros(1, 2))
    assert np.ptp(made.numpy()) == pytest.approx(np.ptp(moved), rel=1e-5)
    assert d - moved[0, 0] == pytest.approx(error, abs=0.005)


def test_the_teachers_signal_falls_into_two_parts():
    _, seen = ours(Purified(), (T, R, B))
    whole, reference, question = T - S, R - S, T - R
    for mark, weight in (("", np.ones_like(S)), ("p_", np.exp(S))):

        def length(x, weight=weight):
            return np.sqrt((weight * x * x).sum(-1))

        for name, part in (("reference", reference), ("question", question)):
            close(seen[f"{mark}share_{name}"], length(part) / length(whole))
            cosine = (weight * whole * part).sum(-1) / (length(whole) * length(part))
            close(seen[f"{mark}cosine_{name}"], cosine)
        parts = (
            seen[f"{mark}share_{n}"] * seen[f"{mark}cosine_{n}"] for n in ("reference", "question")
        )
        close(sum(parts), 1)


@pytest.mark.parametrize("floor", [0.0, 1e-8, 1e-3])
def test_barycenter_is_the_papers_formula(floor):
    made, seen = ours(Barycenter(0.15, 50.0, floor), (T, E))
    d = exact.jsd(E, T)
    close(seen["disagreement"], d)
    close(seen["alpha"], exact.alpha(d))
    close(made, exact.barycenter(T, E, exact.alpha(d), floor))
    assert (seen["disagreement"] <= np.log(2)).all() and (seen["alpha"] < 0.15 + 1e-6).all()


def test_barycenter_of_one_view_takes_the_student_as_it_is():
    close(ours(Barycenter(), (T,))[0], ours(Barycenter(), (T, S))[0])


def test_a_neutral_barycenter_is_the_teacher_and_agreement_keeps_it():
    close(ours(Barycenter(alpha_max=0.0, floor=0), (T, S))[0], T)
    _, seen = ours(Barycenter(), (T, T))
    assert (seen["alpha"] < 1e-4).all() and (seen["alpha"] >= 0).all()
    spread = [exact.pool([(T, 1 - w), (S, w)]) for w in (0.0, 0.1, 0.3, 1.0)]
    alphas = [ours(Barycenter(beta=5.0), (T, other))[1]["alpha"] for other in spread]
    assert (np.diff(alphas, axis=0) > 0).all()


def test_barycenter_is_nearest_to_both_in_its_own_sense():
    a = np.random.default_rng(5).uniform(size=7)
    made = barycenter(torch.tensor(T), torch.tensor(S), torch.tensor(a)).numpy()
    close(made, exact.barycenter(T, S, a))

    def cost(q):
        return (1 - a) * exact.kl(q, T) + a * exact.kl(q, S)

    close(cost(made), -np.log(np.exp((1 - a)[:, None] * T + a[:, None] * S).sum(-1)))
    close(cost(E) - cost(made), exact.kl(E, made))
    # With the divergences the other way round the nearest is the arithmetic mean, another one.
    arithmetic = np.log((1 - a)[:, None] * np.exp(T) + a[:, None] * np.exp(S))

    def other_cost(q):
        return (1 - a) * exact.kl(T, q) + a * exact.kl(S, q)

    close(other_cost(E) - other_cost(arithmetic), exact.kl(arithmetic, E))
    assert np.abs(arithmetic - made).max() > 0.1


def test_the_gradient_towards_a_barycenter_is_the_teachers_scaled_and_the_averages():
    a = np.random.default_rng(6).uniform(size=7)
    towards = partial(exact.reverse_kl_gradient, S)
    close(towards(exact.barycenter(T, S, a)), (1 - a)[:, None] * towards(T))
    average = exact.pool([(S, 0.9), (E, 0.1)])
    mixed = (1 - a)[:, None] * towards(T) + a[:, None] * towards(average)
    close(towards(exact.barycenter(T, average, a)), mixed)


def test_entropy_along_the_path_from_student_to_teacher():
    gap, g, h = T - S, 0.4, 1e-5

    def on_path(g):
        return exact.pool([(S, 1.0), (gap, g)])

    p = np.exp(on_path(g))

    def mean(x):
        return (p * x).sum(-1)

    slope = -g * (mean(gap * gap) - mean(gap) ** 2) - (mean(gap * S) - mean(gap) * mean(S))
    close((exact.entropy(on_path(g + h)) - exact.entropy(on_path(g - h))) / (2 * h), slope)


def test_coarser_entries_bring_distributions_nearer():
    ids = np.argsort(-S, -1)[:, :10]
    student, teacher = exact.with_tail(S, ids), exact.with_tail(T, ids)
    close(np.exp(student).sum(-1), 1)
    assert (exact.jsd(student, teacher) <= exact.jsd(S, T) + 1e-12).all()
    assert (exact.kl(student, teacher) <= exact.kl(S, T) + 1e-12).all()


@pytest.mark.parametrize("alpha", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("floor", [None, -5.0, -2.0])
def test_contrastive_is_the_right_reader_away_from_the_wrong_one(alpha, floor):
    made, seen = ours(Contrastive(alpha, floor), (T, R))
    close(made, exact.contrastive(T, R, alpha, floor))
    close(np.exp(made).sum(-1), 1)
    close(seen["contrast"], exact.kl(T, R))
    shifted = [row + np.arange(7)[:, None] for row in (T, R)]
    close(ours(Contrastive(alpha, floor), shifted)[0], made)


def test_contrastive_of_hints_that_say_the_same_is_what_they_say():
    close(ours(Contrastive(0.5, None), (T, T))[0], T)
    close(ours(Contrastive(0.0), (T, R))[0], T)
    assert np.abs(ours(Contrastive(0.5, None), (T, T))[1]["contrast"]).max() < 1e-6


def test_contrastive_takes_the_odds_further_by_what_the_hints_differ_in():
    """The log-odds of any two entries: the right reader's, and alpha times what it has over the
    wrong one's."""
    made, _ = ours(Contrastive(0.7, None), (T, R))
    odds = made - made[:, :1]
    close(odds, (T - T[:, :1]) + 0.7 * ((T - R) - (T - R)[:, :1]), atol=1e-4)


def test_what_the_wrong_reader_excludes_gains_no_more_than_its_floor():
    right, wrong = torch.zeros(1, 3), torch.tensor([[0.0, 0.0, -1e4]])
    bounded = contrastive(right, wrong, 1.0, floor=-5.0).exp()
    assert contrastive(right, wrong, 1.0).exp()[0, 2] == pytest.approx(1.0)
    assert (bounded[0, 2] / bounded[0, 0]).item() == pytest.approx(np.exp(5) / 2, rel=1e-4)


def test_a_mixture_pools_views_and_student():
    made, _ = ours(Mixture((0.7, 0.2), student=0.3), (T, E))
    close(made, exact.pool([(T, 0.7), (E, 0.2), (S, 0.3)]))
    close(ours(Mixture(), (T,))[0], T)
    close(ours(Mixture((0.0,), student=1.0), (T,))[0], S)
    # beta-OPSD at a weight of a half is DemoPSD at alpha a half.
    half, _ = ours(Mixture((0.5,), student=0.5), (T,))
    close(half, exact.barycenter(T, S, 0.5))


@pytest.mark.parametrize(
    ("target", "views", "told"),
    [
        (Mixture((0.5, 0.5)), 1, "'mixture' takes 2 views, the context gave 1"),
        (Purified(), 1, "'purified' takes 3 views, the context gave 1"),
        (Barycenter(), 3, "'barycenter' takes one view, the context gave 3"),
        (Contrastive(), 3, "'contrastive' takes 2 views, the context gave 3"),
    ],
)
def test_another_number_of_views_is_refused(target, views, told):
    with pytest.raises(ValueError, match=told):
        ours(target, [T] * views)
