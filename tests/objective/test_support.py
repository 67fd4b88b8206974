"""Supports: common entries, the rest as a tail or dropped, gradients back to the vocabulary."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.oracle import Oracle, assert_gradients, assert_values
from tests.peers import compute_topk_self_distillation_loss

from opsd.objective.divergences import forward_kl, jsd, reverse_kl
from opsd.objective.head import TeacherHidden
from opsd.objective.support import Full, TopK
from opsd.objective.terms import ChunkDivergence

TOKENS = torch.zeros(16, dtype=torch.long)
NOWHERE = TeacherHidden("teacher", torch.empty(0), None)


def logits(distance: float, seed: int = 0, scale: float = 3.0, vocab: int = 300):
    generator = torch.Generator().manual_seed(seed)
    student = torch.randn(16, vocab, generator=generator) * scale
    return student, student + torch.randn(16, vocab, generator=generator) * distance


def term(divergence, support, student, target, temperature=1.0):
    made = ChunkDivergence((NOWHERE,), divergence, support=support, temperature=temperature)
    return made(student.clone(), [target.clone()], TOKENS)


def test_full_changes_nothing():
    student, target = logits(1.0)
    restricted = Full()(student, [target], ["teacher"])
    assert restricted.student is student and restricted.views[0] is target
    assert restricted.expand(student) is student


@pytest.mark.parametrize("temperature", [1.0, 1.1])
@pytest.mark.parametrize("rest", ["tail", "renormalise"])
@pytest.mark.parametrize("by", ["student", "teacher"])
@pytest.mark.parametrize("distance", [1e-3, 0.3, 3.0, 10.0])
def test_top_k_equals_float64(distance, by, rest, temperature):
    student, target = logits(distance)
    # Near equality the tail's log-sum, rounded to float32, limits what can be known of its gap.
    relative = 1e-3 if rest == "tail" and distance < 0.1 else 1e-5
    for ours, true in (
        (forward_kl, Oracle("forward_kl", k=20, rest=rest, by=by)),
        (reverse_kl, Oracle("reverse_kl", k=20, rest=rest, by=by)),
        (jsd(0.5), Oracle("jsd", 0.5, k=20, rest=rest, by=by)),
    ):
        rows = term(ours, TopK(20, by, rest), student, target, temperature)
        value, gradient = true(student, target, temperature)
        assert_values(rows.value, value, relative)
        assert_gradients(rows.gradient, gradient, relative, floor=1e-8)


@pytest.mark.parametrize("tail", [True, False])
@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_top_k_equals_trl(alpha, tail):
    student, target = logits(1.0)
    theirs = compute_topk_self_distillation_loss(
        student,
        target,
        distillation_topk=20,
        distillation_alpha=alpha,
        distillation_add_tail=tail,
    )
    ours = {0.0: forward_kl, 1.0: reverse_kl}.get(alpha) or jsd(alpha)
    support = TopK(20, rest="tail" if tail else "renormalise")
    value = term(ours, support, student, target).value
    torch.testing.assert_close(value, theirs, rtol=1e-4, atol=1e-6)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(0, 2**31 - 1), st.floats(0.1, 5.0), st.integers(1, 299))
def test_the_tail_gives_a_lower_bound(seed, distance, k):
    student, target = logits(distance, seed)
    for divergence in (forward_kl, reverse_kl, jsd(0.3)):
        full = term(divergence, Full(), student, target).value
        part = term(divergence, TopK(k), student, target)
        assert (part.value <= full + 1e-5).all() and (part.value >= -1e-6).all()
        assert (part.gradient.sum(-1).abs() <= 1e-5).all()


def test_all_entries_are_the_full_support():
    student, target = logits(1.0)
    for k in (300, 1000):
        for rest in ("tail", "renormalise"):
            part = term(jsd(0.5), TopK(k, rest=rest), student, target)
            full = term(jsd(0.5), Full(), student, target)
            torch.testing.assert_close(part.value, full.value, rtol=1e-5, atol=1e-7)
            torch.testing.assert_close(part.gradient, full.gradient, rtol=1e-4, atol=1e-7)


def test_renormalising_leaves_other_entries_alone():
    student, target = logits(1.0)
    gradient = term(forward_kl, TopK(20, rest="renormalise"), student, target).gradient
    outside = torch.ones_like(student).scatter(-1, student.topk(20).indices, 0.0).bool()
    assert not gradient[outside].any() and gradient[~outside].all()


def test_statistics_are_read_before_the_restriction():
    student, target = logits(1.0)
    full = term(jsd(0.5), Full(), student, target, 1.1).statistics
    part = term(jsd(0.5), TopK(5), student, target, 1.1).statistics
    torch.testing.assert_close(part["logp_student"], full["logp_student"], rtol=1e-5, atol=1e-5)
    assert "logp_target" not in part


def test_an_unknown_view_is_named():
    student, target = logits(1.0)
    with pytest.raises(ValueError, match="by 'rubric': no such view; the context gives teacher"):
        TopK(5, by="rubric")(student, [target], ["teacher"])
