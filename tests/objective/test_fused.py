"""The fused loss against float64 and against the dense form: chunks, heads, several terms."""

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from tests.oracle import Oracle, OracleHead, assert_gradients, assert_values, magnitude, sampled
from torch.nn.functional import log_softmax

from opsd.objective import kernels
from opsd.objective.divergences import forward_kl, jsd, pointwise_clip, reverse_kl
from opsd.objective.fused import fused_divergence, fused_terms
from opsd.objective.head import Head, TeacherHidden
from opsd.objective.support import TopK
from opsd.objective.terms import ChunkDivergence, ChunkLogProb

DIVERGENCES = {
    "forward_kl": (forward_kl, Oracle("forward_kl")),
    "reverse_kl": (reverse_kl, Oracle("reverse_kl")),
    "jsd": (jsd(0.5), Oracle("jsd", 0.5)),
    "jsd(0.9)": (jsd(0.9), Oracle("jsd", 0.9)),
    "clip": (pointwise_clip(forward_kl, 0.05), Oracle("forward_kl", cap=0.05)),
}


def on_grid(*shape: int, bits: int, seed: int) -> torch.Tensor:
    """Normal numbers rounded to multiples of 2^-bits, so that products sum without rounding."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).mul(2**bits).round().div(2**bits)


@dataclass
class Case:
    """A head, hidden states of both sides, and row weights."""

    rows: int = 13
    vocab: int = 70
    hidden: int = 16
    padded: int = 0
    distance: float = 0.5
    trained: bool = False
    bias: bool = False
    softcap: float | None = None
    scale: float = 1.0
    seed: int = 0
    head: Head = field(init=False)

    def __post_init__(self) -> None:
        weight = on_grid(self.vocab + self.padded, self.hidden, bits=4, seed=self.seed)
        bias = on_grid(self.vocab + self.padded, bits=4, seed=self.seed + 1) if self.bias else None
        for parameter in (weight, bias):
            if parameter is not None:
                parameter.requires_grad_(self.trained)
        self.head = Head(weight, bias, self.vocab, self.softcap, self.scale)
        self.student = on_grid(self.rows, self.hidden, bits=5, seed=self.seed + 2).requires_grad_()
        noise = on_grid(self.rows, self.hidden, bits=5, seed=self.seed + 3) * self.distance
        self.teacher = self.student.detach() + noise.mul(2**11).round().div(2**11)
        self.weights = torch.rand(self.rows, generator=torch.Generator().manual_seed(self.seed))
        self.tokens = torch.arange(self.rows) * 7 % self.vocab

    def check(self, values, true: Oracle, temperature: float = 1.0, relative: float = 1e-5) -> None:
        """Values, then gradients of sum(weight x value) by everything that has one."""
        exact = OracleHead.of(self.head)
        student, target = exact.logits(self.student), exact.logits(self.teacher)
        value, gradient = true(student, target, temperature)
        summed = 0.0 if true.cap is None else magnitude(true, student, target, temperature)
        assert_values(values, value, relative, summed=summed)
        (values * self.weights).sum().backward()
        self.check_gradients(gradient * self.weights.double().numpy()[:, None], relative)

    def check_gradients(self, by_logits: np.ndarray, relative: float = 1e-5) -> None:
        exact = OracleHead.of(self.head)
        by_student, by_weight, by_bias = exact.back(by_logits, self.student)
        largest = np.abs(by_student).max() if by_student.size else 0.0
        assert_gradients(self.student.grad, by_student, relative, floor=1e-6 * largest)
        if self.trained:
            error = np.abs(self.head.weight.grad.double().numpy() - by_weight).max()
            assert error <= relative * np.abs(by_weight).max()
        if self.trained and self.head.bias is not None:
            error = np.abs(self.head.bias.grad.double().numpy() - by_bias).max()
            assert error <= relative * np.abs(by_bias).max()


@pytest.mark.parametrize("chunk", [1, 4, 13, 64])
@pytest.mark.parametrize("name", DIVERGENCES)
def test_equals_float64_at_any_chunk(name, chunk):
    ours, true = DIVERGENCES[name]
    case = Case()
    case.check(
        fused_divergence(case.student, case.teacher, case.head, ours, chunk_rows=chunk), true
    )


@pytest.mark.parametrize("distance", [1e-3, 0.03, 0.3, 3.0])
@pytest.mark.parametrize("name", DIVERGENCES)
def test_equals_float64_near_and_far(name, distance):
    ours, true = DIVERGENCES[name]
    case = Case(distance=distance, vocab=300)
    case.check(fused_divergence(case.student, case.teacher, case.head, ours, chunk_rows=5), true)


@pytest.mark.parametrize(
    "changes",
    [
        {"padded": 9},
        {"bias": True, "padded": 9},
        {"softcap": 8.0},
        {"softcap": 8.0, "bias": True, "scale": 0.5},
        {"scale": 0.25},
    ],
    ids=str,
)
@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("name", ["forward_kl", "jsd", "clip"])
def test_heads(name, trained, changes):
    ours, true = DIVERGENCES[name]
    case = Case(trained=trained, **changes)
    values = fused_divergence(
        case.student, case.teacher, case.head, ours, temperature=1.1, chunk_rows=4
    )
    # A soft-cap's tanh is itself rounded to float32.
    case.check(values, true, 1.1, relative=1e-5 if case.head.softcap is None else 1e-4)


def test_padded_rows_get_no_gradient():
    case = Case(trained=True, bias=True, padded=9)
    fused_divergence(case.student, case.teacher, case.head, chunk_rows=4).sum().backward()
    assert not case.head.weight.grad[case.vocab :].any()
    assert not case.head.bias.grad[case.vocab :].any()
    assert case.head.weight.grad[: case.vocab].any(-1).all()


def test_accepts_a_bare_weight():
    case = Case()
    plain = fused_divergence(case.student, case.teacher, case.head.weight, jsd(0.5))
    other = fused_divergence(
        case.student, case.teacher, case.head, jsd(0.5), teacher_head=case.head.weight.clone()
    )
    torch.testing.assert_close(plain, other, rtol=1e-6, atol=0)


def test_a_teacher_brings_its_own_head():
    case, other = Case(), Case(hidden=24, seed=5)
    values = fused_divergence(
        case.student, other.teacher, case.head, reverse_kl, teacher_head=other.head, chunk_rows=4
    )
    exact, theirs = OracleHead.of(case.head), OracleHead.of(other.head)
    value, gradient = Oracle("reverse_kl")(exact.logits(case.student), theirs.logits(other.teacher))
    assert_values(values, value)
    values.sum().backward()
    case.check_gradients(gradient)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_dense_and_fused_agree(name):
    ours, _ = DIVERGENCES[name]
    case = Case(vocab=200, trained=True)
    ours_fused = fused_divergence(case.student, case.teacher, case.head, ours, chunk_rows=4)
    ours_fused.sum().backward()
    by_student, by_weight = case.student.grad.clone(), case.head.weight.grad.clone()
    case.student.grad = case.head.weight.grad = None
    target = log_softmax(case.teacher @ case.head.weight.detach().t(), -1)
    dense = ours(log_softmax(case.student @ case.head.weight.t(), -1), target)
    dense.sum().backward()
    torch.testing.assert_close(ours_fused, dense, rtol=1e-5, atol=1e-6)
    for a, b in ((case.student.grad, by_student), (case.head.weight.grad, by_weight)):
        assert (a - b).abs().max() <= 1e-5 * b.abs().max()


@pytest.mark.parametrize("rest", ["tail", "renormalise"])
@pytest.mark.parametrize("by", ["student", "teacher"])
@pytest.mark.parametrize("name", ["forward_kl", "reverse_kl", "jsd", "clip"])
def test_top_k_equals_float64(name, by, rest):
    ours, true = DIVERGENCES[name]
    for k in (1, 5, 69, 70, 100):
        case = Case(trained=True)
        view = TeacherHidden("teacher", case.teacher, case.head)
        term = ChunkDivergence((view,), ours, support=TopK(k, by, rest), temperature=1.1)
        values, _ = fused_terms(case.student, case.head, [term], case.tokens, chunk_rows=4)
        oracle = Oracle(true.kind, true.beta, true.cap, k, rest, by)
        if k == 1 and rest == "renormalise":
            assert not values[0].any()
        else:
            case.check(values[0], oracle, 1.1)


@pytest.mark.parametrize("temperature", [1.0, 1.1])
@pytest.mark.parametrize("trained", [False, True])
def test_log_probability_of_the_sampled_token(trained, temperature):
    case = Case(trained=trained, vocab=200)
    term = ChunkLogProb(temperature=temperature)
    (values,), (statistics,) = fused_terms(
        case.student, case.head, [term], case.tokens, chunk_rows=4
    )
    exact = OracleHead.of(case.head)
    value, gradient = sampled(exact.logits(case.student), case.tokens.numpy(), temperature)
    assert_values(values, value)
    assert torch.equal(statistics["logp_student"], values.detach())
    (values * case.weights).sum().backward()
    case.check_gradients(gradient * case.weights.double().numpy()[:, None])


@pytest.mark.parametrize("size", [1.0, 6.0, 30.0])
def test_log_probability_is_exact_for_near_certain_tokens(size):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(64, 400, generator=generator) * size
    for tokens in (logits.argmax(-1), logits.argmin(-1), torch.arange(64)):
        row = ChunkLogProb()(logits.clone(), [], tokens)
        value, gradient = sampled(logits, tokens.numpy())
        assert_values(row.value, value)
        assert_gradients(row.gradient, gradient, floor=1e-12)


def test_sampled_term_reads_the_target_at_the_token():
    case = Case()
    view = TeacherHidden("teacher", case.teacher, case.head)
    term = ChunkLogProb((view,), temperature=1.1)
    _, (seen,) = fused_terms(case.student, case.head, [term], case.tokens, chunk_rows=4)
    for hidden, name in ((case.student, "student"), (case.teacher, "target")):
        logp = log_softmax((hidden @ case.head.weight.t()).double() / 1.1, -1)
        at = logp.gather(-1, case.tokens[:, None])[:, 0]
        torch.testing.assert_close(seen[f"logp_{name}"].double(), at, rtol=1e-5, atol=1e-6)


def terms_of(case: Case):
    view = TeacherHidden("teacher", case.teacher, case.head)
    return [
        ChunkDivergence((view,), jsd(0.5)),
        ChunkLogProb(temperature=1.1),
        ChunkDivergence((view,), reverse_kl, support=TopK(9), temperature=0.9),
    ]


def truth_of(case: Case):
    exact = OracleHead.of(case.head)
    student, target = exact.logits(case.student), exact.logits(case.teacher)
    return [
        Oracle("jsd", 0.5)(student, target),
        sampled(student, case.tokens.numpy(), 1.1),
        Oracle("reverse_kl", k=9)(student, target, 0.9),
    ]


@pytest.mark.parametrize("plan", ["none", "right", "wrong"])
@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("softcap", [None, 8.0])
def test_several_terms_each_with_its_weights(trained, plan, softcap):
    case = Case(trained=trained, bias=True, padded=3, softcap=softcap)
    weights = [case.weights * c for c in (0.5, -2.0, 1e-3)]
    planned = {"none": None, "right": [w * 7 for w in weights], "wrong": [case.weights] * 3}[plan]
    values, _ = fused_terms(
        case.student, case.head, terms_of(case), case.tokens, chunk_rows=4, planned=planned
    )
    total = 0.0
    for value, weight, (true, gradient) in zip(values, weights, truth_of(case), strict=True):
        assert_values(value, true)
        total = total + gradient * weight.double().numpy()[:, None]
    sum((v * w).sum() for v, w in zip(values, weights, strict=True)).backward()
    case.check_gradients(total)


@pytest.mark.parametrize("size", [1.0, 1e-9])
def test_a_plan_that_does_not_hold_is_not_used(size):
    case = Case(trained=True)
    terms, planned = terms_of(case)[:1], [torch.ones(case.rows)]
    (value,), _ = fused_terms(case.student, case.head, terms, case.tokens, planned=planned)
    (value * case.weights * size).sum().backward()
    case.check_gradients(truth_of(case)[0][1] * case.weights.double().numpy()[:, None] * size)


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("planned", [False, True])
def test_all_rows_masked(trained, planned):
    case = Case(trained=trained)
    plan = [torch.zeros(case.rows)] * 3 if planned else None
    values, _ = fused_terms(case.student, case.head, terms_of(case), case.tokens, planned=plan)
    sum((v * 0.0).sum() for v in values).backward()
    assert not case.student.grad.any()
    assert not trained or not case.head.weight.grad.any()


@pytest.mark.parametrize("rows", [0, 1])
@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("planned", [False, True])
def test_no_row_and_one_row(rows, trained, planned):
    case = Case(rows=rows, trained=trained, bias=True)
    plan = [case.weights] * 3 if planned else None
    values, statistics = fused_terms(
        case.student, case.head, terms_of(case), case.tokens, chunk_rows=4, planned=plan
    )
    for value, (true, _) in zip(values, truth_of(case), strict=True):
        assert value.shape == (rows,)
        assert_values(value, true)
    assert statistics[0]["divergence"].shape == statistics[1]["logp_student"].shape == (rows,)
    sum((v * case.weights).sum() for v in values).backward()
    case.check_gradients(sum(g for _, g in truth_of(case)) * case.weights.double().numpy()[:, None])


def test_without_gradients_nothing_is_kept():
    case = Case()
    with torch.no_grad():
        silent = fused_divergence(case.student, case.teacher, case.head, chunk_rows=4)
    loud = fused_divergence(case.student, case.teacher, case.head, chunk_rows=4)
    assert torch.equal(silent, loud.detach()) and not silent.requires_grad
    teacher = case.teacher.requires_grad_()
    fused_divergence(case.student, teacher, case.head).sum().backward()
    assert teacher.grad is None


def test_bfloat16_inputs():
    case = Case(trained=True, vocab=200)
    student = case.student.detach().bfloat16().requires_grad_()
    weight = case.head.weight.detach().bfloat16().requires_grad_()
    head = Head(weight, vocab=case.vocab)
    values = fused_divergence(student, case.teacher.bfloat16(), head, jsd(0.5), chunk_rows=4)
    assert values.dtype == torch.float32
    (values * case.weights).sum().backward()
    assert student.grad.dtype == weight.grad.dtype == torch.bfloat16
    exact = OracleHead.of(head)
    value, gradient = Oracle("jsd", 0.5)(
        exact.logits(student), exact.logits(case.teacher.bfloat16())
    )
    assert_values(values, value, relative=0.05, nats=1e-3)
    by_student, by_weight, _ = exact.back(
        gradient * case.weights.double().numpy()[:, None], student
    )
    for ours, true in ((student.grad, by_student), (weight.grad, by_weight)):
        assert np.abs(ours.double().numpy() - true).max() <= 0.03 * np.abs(true).max()


def test_autocast_does_not_reach_the_loss():
    case = Case(trained=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        values = fused_divergence(case.student, case.teacher, case.head, chunk_rows=4)
    case.check(values, Oracle("forward_kl"))


@pytest.mark.parametrize("trained", [False, True])
def test_blocks_of_a_chunk_change_nothing(trained, monkeypatch):
    results = []
    for limit in (2**30, 4 * 70 * 3, 1):
        monkeypatch.setitem(kernels._BLOCK_BYTES, "cpu", limit)
        case = Case(trained=trained, softcap=8.0)
        values, statistics = fused_terms(
            case.student, case.head, terms_of(case), case.tokens, chunk_rows=8
        )
        sum((v * case.weights).sum() for v in values).backward()
        gradients = [case.student.grad, *([case.head.weight.grad] if trained else [])]
        results.append([*values, *(c for s in statistics for c in s.values()), *gradients])
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)
