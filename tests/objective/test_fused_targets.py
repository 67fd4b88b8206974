"""Targets of several views through the fused loss: values and gradients against float64."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests import oracle_targets as exact
from tests.oracle import Oracle, OracleHead, assert_gradients, assert_values, log_softmax
from torch.testing import assert_close

from opsd.objective.divergences import forward_kl, jsd, pointwise_clip, reverse_kl
from opsd.objective.fused import fused_terms, head_products
from opsd.objective.head import Head, TeacherHidden
from opsd.objective.support import TopK
from opsd.objective.targets import Barycenter, Contrastive, Mixture, Purified
from opsd.objective.terms import ChunkDivergence, ChunkLogProb, mixed_before

ROWS, HIDDEN, VOCAB, PADDED = 13, 16, 90, 9
NAMES = ("teacher", "probe", "base")
DIVERGENCES = {
    "forward_kl": (forward_kl, Oracle("forward_kl")),
    "reverse_kl": (reverse_kl, Oracle("reverse_kl")),
    "jsd": (jsd(0.5), Oracle("jsd", 0.5)),
    "clip": (pointwise_clip(forward_kl, 0.05), Oracle("forward_kl", cap=0.05)),
}
TARGETS = {
    "purified": (Purified(), lambda s, t, r, b: exact.purified(t, r, b)),
    "purified, other knobs": (
        Purified(beta=2.0, clip=3.0, centre="base"),
        lambda s, t, r, b: exact.purified(t, r, b, 2.0, 3.0, by=b),
    ),
    "barycenter": (
        Barycenter(),
        lambda s, t, r: exact.barycenter(t, r, exact.alpha(exact.jsd(r, t)), 1e-8),
    ),
    "barycenter with the student": (
        Barycenter(),
        lambda s, t: exact.barycenter(t, s, exact.alpha(exact.jsd(s, t)), 1e-8),
    ),
    "contrastive": (Contrastive(), lambda s, t, r: exact.contrastive(t, r, 0.5, -5.0)),
    "contrastive without a floor": (
        Contrastive(1.5, floor=None),
        lambda s, t, r: exact.contrastive(t, r, 1.5),
    ),
    "mixture": (Mixture((0.7,), 0.3), lambda s, t: exact.pool([(t, 0.7), (s, 0.3)])),
    "trust region": (Mixture((0.1, 0.9)), lambda s, t, r: exact.pool([(t, 0.1), (r, 0.9)])),
    "veto": (Mixture((1.0,), 0.5), lambda s, t: exact.pool([(t, 1.0), (s, 0.5)])),
}


def case(views: int, seed: int = 0, padding: float = 1.0, **head):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    weight = normal(VOCAB + PADDED, HIDDEN)
    weight[VOCAB:] *= padding
    student = normal(ROWS, HIDDEN)
    hidden = [student + normal(ROWS, HIDDEN) * 0.5 for _ in range(views)]
    bias = normal(VOCAB + PADDED) if head.pop("bias", False) else None
    return Head(weight, bias, vocab=VOCAB, **head), student.requires_grad_(), hidden


def count(formula) -> int:
    return formula.__code__.co_argcount - 1


def run(term, head, student, chunk_rows=4):
    tokens = torch.arange(ROWS) * 7 % VOCAB
    (values,), (seen,) = fused_terms(student, head, [term], tokens, chunk_rows=chunk_rows)
    weights = torch.linspace(0.5, 2, ROWS)
    (gradient,) = torch.autograd.grad((values * weights).sum(), student)
    return values, gradient / weights[:, None], seen


def expected(true, formula, head, student, hidden, temperature=1.0):
    """Values and their gradient by the student's hidden states, in float64."""
    layer = OracleHead.of(head)
    rows = [log_softmax(layer.logits(x) / temperature) for x in (student, *hidden)]
    value, gradient = true(layer.logits(student) / temperature, formula(*rows))
    return value, layer.back(gradient / temperature, student)[0]


@pytest.mark.parametrize("temperature", [1.0, 1.1])
@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("name", TARGETS)
def test_values_and_gradients_are_those_of_float64(name, divergence, temperature):
    (target, formula), (ours, true) = TARGETS[name], DIVERGENCES[divergence]
    for changes in ({}, {"bias": True, "scale": 0.5}, {"softcap": 8.0}):
        head, student, hidden = case(count(formula), **changes)
        views = [TeacherHidden(n, x, head) for n, x in zip(NAMES, hidden, strict=False)]
        term = ChunkDivergence(views, ours, target, temperature=temperature)
        values, gradient, _ = run(term, head, student)
        value, by_student = expected(true, formula, head, student, hidden, temperature)
        assert_values(values, value, 2e-5, nats=1e-6)
        assert_gradients(gradient, by_student, 1e-4, floor=1e-6)


def test_rows_that_pad_the_vocabulary_take_no_part():
    for name, (target, formula) in TARGETS.items():
        results = []
        for padding in (1.0, 50.0):
            head, student, hidden = case(count(formula), padding=padding)
            views = [TeacherHidden(n, x, head) for n, x in zip(NAMES, hidden, strict=False)]
            results.append(run(ChunkDivergence(views, jsd(0.5), target), head, student))
        assert torch.equal(results[0][0], results[1][0]), name
        assert torch.equal(results[0][1], results[1][1]), name


def test_a_mixture_costs_no_further_stream_where_logits_are_linear():
    head, student, hidden = case(2)
    views = [TeacherHidden(n, x, head) for n, x in zip(NAMES, hidden, strict=False)]
    for term in (
        ChunkDivergence(views, target=Mixture((0.1, 0.7), 0.2)),
        ChunkLogProb(views, Mixture((0.1, 0.7), 0.2)),
    ):
        folded = mixed_before(term, student, head)
        assert [view.name for view in folded.views] == ["target"]
        assert head_products(head, [folded], True) == head_products(head, [term], True) - 1
        assert not folded.views[0].hidden_ND.requires_grad


@pytest.mark.parametrize(
    ("changes", "term"),
    [
        ({"softcap": 8.0}, {}),
        ({"bias": True}, {"target": Mixture((1.0,), 0.5)}),
        ({}, {"support": TopK(5)}),
        ({}, {"target": Barycenter()}),
    ],
)
def test_elsewhere_it_is_mixed_as_logits(changes, term):
    head, student, hidden = case(1, **changes)
    made = replace(
        ChunkDivergence([TeacherHidden("teacher", hidden[0], head)], target=Mixture((0.5,), 0.5)),
        **term,
    )
    assert mixed_before(made, student, head) is made
    other = Head(head.weight.clone(), vocab=VOCAB)
    plain = replace(made, target=Mixture((0.5,), 0.5), support=ChunkDivergence(()).support)
    foreign = replace(plain, views=[TeacherHidden("teacher", hidden[0], other)])
    assert mixed_before(foreign, student, head) is foreign


@pytest.mark.parametrize("name", ["mixture", "trust region", "veto"])
def test_mixed_before_the_head_or_after_it_is_the_same(name):
    target, formula = TARGETS[name]
    head, student, hidden = case(count(formula))
    foreign = Head(head.weight.clone(), vocab=VOCAB)
    one, other = (
        run(ChunkDivergence([TeacherHidden(n, x, h) for n, x in zip(NAMES, hidden, strict=False)],
                           reverse_kl, target, temperature=1.1), head, student)
        for h in (head, foreign)
    )  # fmt: skip
    assert_close(one[0], other[0], rtol=1e-5, atol=1e-6)
    assert_close(one[1], other[1], rtol=1e-4, atol=5e-6)
    assert_close(one[2]["logp_target"], other[2]["logp_target"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 1.3])
def test_entries_are_chosen_before_the_barycenter_is_taken(temperature):
    """DemoPSD: the student's likeliest entries and a tail, of all three rows, then the target."""
    head, student, hidden = case(2)
    views = [TeacherHidden(n, x, head) for n, x in zip(NAMES, hidden, strict=False)]
    term = ChunkDivergence(views, reverse_kl, Barycenter(), TopK(10), temperature)
    values, gradient, seen = run(term, head, student)

    hidden64 = student.detach().double().requires_grad_()
    weight = head.weight[:VOCAB].double()
    rows = [torch.log_softmax(x.double() @ weight.T / temperature, -1) for x in (hidden64, *hidden)]
    ids = rows[0].detach().topk(10).indices

    def coarse(row):
        inside = row.gather(-1, ids)
        return torch.cat([inside, torch.log1p(-inside.exp().sum(-1, keepdim=True))], -1)

    s, t, near = (coarse(row) for row in rows)
    d = exact.jsd(near.detach().numpy(), t.detach().numpy())
    q = exact.barycenter(t.detach().numpy(), near.detach().numpy(), exact.alpha(d), 1e-8)
    value = (s.exp() * (s - torch.tensor(q))).sum(-1)
    (by_hidden,) = torch.autograd.grad(value.sum(), hidden64)
    assert_values(values, value.detach().numpy(), 2e-5, nats=1e-6)
    assert_gradients(gradient, by_hidden.numpy(), 1e-4, floor=1e-6)
    np.testing.assert_allclose(seen["target/alpha"].numpy(), exact.alpha(d), atol=1e-5)


def test_a_sampled_token_is_held_against_the_target():
    head, student, hidden = case(3)
    views = [TeacherHidden(n, x, head) for n, x in zip(NAMES, hidden, strict=True)]
    _, _, seen = run(ChunkLogProb(views, Purified(), 1.1), head, student)
    layer = OracleHead.of(head)
    rows = [log_softmax(layer.logits(x) / 1.1) for x in hidden]
    at = np.arange(ROWS) * 7 % VOCAB
    true = exact.purified(*rows)[np.arange(ROWS), at]
    np.testing.assert_allclose(seen["logp_target"].numpy(), true, atol=2e-5)
    assert {"target/share_reference", "target/p_cosine_question"} <= seen.keys()
