"""Every form of a term is the same function; compilation happens once, and may fail."""

import pytest
import torch
from tests.objective.test_fused import Case, terms_of
from torch._dynamo.utils import counters
from torch.utils.flop_counter import FlopCounterMode

from opsd.objective import kernels
from opsd.objective.divergences import forward_kl, jsd, pointwise_clip
from opsd.objective.fused import chunk_rows_for, fused_divergence, fused_terms
from opsd.objective.head import Head, TeacherHidden
from opsd.objective.kernels import Compiled, Eager, Triton, kernel_for
from opsd.objective.support import TopK
from opsd.objective.terms import ChunkDivergence, ChunkLogProb
from opsd.types import UserError

# Inductor's own imports.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")


@pytest.fixture(autouse=True)
def fresh():
    kernels._graph.cache_clear()
    torch._dynamo.reset()
    counters.clear()


def result(kernel, terms, rows, chunk, distance=0.5):
    """Values, statistics and gradient of the terms on `rows` rows, far ones included."""
    case = Case(rows=rows, vocab=300, distance=distance)
    with torch.no_grad():
        case.teacher[::3] *= 12
    values, statistics = fused_terms(
        case.student, case.head, terms(case), case.tokens, chunk_rows=chunk, kernel=kernel
    )
    sum((v * case.weights).sum() for v in values).backward()
    columns = [c for s in statistics for c in s.values()]
    return [*values, *columns, case.student.grad]


def one(divergence):
    def terms(case):
        view = TeacherHidden("teacher", case.teacher, case.head)
        return [ChunkDivergence((view,), divergence, temperature=1.1)]

    return terms


@pytest.mark.slow
def test_compiled_equals_eager_with_one_graph_for_every_number_of_rows():
    terms = one(pointwise_clip(forward_kl, 0.05))
    for rows, chunk in ((13, 5), (20, 7), (30, 11), (64, 64)):
        eager = result("eager", terms, rows, chunk)
        for ours, theirs in zip(result("compiled", terms, rows, chunk), eager, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]


@pytest.mark.slow
def test_terms_that_only_the_eager_form_covers_can_be_compiled():
    eager = result("eager", terms_of, 13, 5)
    for ours, theirs in zip(result("compiled", terms_of, 13, 5), eager, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_under_a_mode_that_watches_operations_a_graph_is_its_operations():
    case = Case(rows=8, vocab=64, hidden=16)
    with FlopCounterMode(display=False) as counter:
        values = fused_divergence(case.student, case.teacher, case.head, kernel="compiled")
        values.sum().backward()
    assert counter.get_total_flops() == 3 * 2 * 8 * 64 * 16


def test_what_cannot_be_compiled_is_computed_as_it_stands(monkeypatch):
    def refuse(*_):
        raise RuntimeError("no compiler")

    monkeypatch.setattr(torch, "compile", lambda f, **_: torch._dynamo.optimize(refuse)(f))
    eager = result("eager", one(jsd(0.5)), 13, 5)
    with pytest.warns(UserWarning, match="the loss is not compiled: .*no compiler") as seen:
        compiled = result("compiled", one(jsd(0.5)), 13, 5)
    assert len(seen) == 1
    assert all(torch.equal(a, b) for a, b in zip(compiled, eager, strict=True))


def test_triton_leaves_other_terms_to_the_eager_form():
    case = Case()
    view = TeacherHidden("teacher", case.teacher, case.head)
    other = [
        ChunkLogProb(),
        ChunkDivergence((view,), support=TopK(5)),
        ChunkDivergence((view, view)),
    ]
    assert Triton().reads_any(ChunkDivergence((view,), pointwise_clip(jsd(0.5))))
    assert not any(Triton().reads_any(term) for term in other)
    logits = torch.randn(2, 4, 70, generator=torch.Generator().manual_seed(0))
    for term in other[:2]:
        ours, eager = (
            kernel(term, logits[0].clone(), [logits[1].clone()][: len(term.views)], case.tokens[:4])
            for kernel in (Triton(), Eager())
        )
        assert torch.equal(ours.value, eager.value) and torch.equal(ours.gradient, eager.gradient)


def test_the_choice_follows_the_device():
    assert isinstance(kernel_for("auto", "cpu"), Eager)
    pytest.importorskip("triton")
    assert isinstance(kernel_for("auto", "cuda"), Triton)
    assert isinstance(kernel_for("eager", "cuda"), Eager)
    assert isinstance(kernel_for("compiled", "cpu"), Compiled)


def test_an_unknown_kernel_is_refused():
    case = Case()
    with pytest.raises(UserError, match="no loss kernel 'cuda'"):
        fused_divergence(case.student, case.teacher, case.head, kernel="cuda")


def test_triton_without_a_gpu_says_what_to_choose(monkeypatch):
    pytest.importorskip("triton")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(UserError, match="needs a GPU"):
        kernel_for("triton", "cpu")


def test_half_precision_logits_double_a_chunk_and_more():
    half = Head(torch.empty(151_936, 1, device="meta", dtype=torch.bfloat16))
    term = ChunkDivergence((TeacherHidden("teacher", torch.empty(0), half),))
    assert chunk_rows_for(half, [term], "cuda", Eager()) == 294
    assert chunk_rows_for(half, [term], "cuda", Triton()) == 883
    # Gradients of several terms are weighted and added: in float32.
    assert chunk_rows_for(half, [term, term], "cuda", Triton()) == 147
    capped = Head(half.weight, softcap=30.0)
    assert chunk_rows_for(capped, [term], "cuda", Triton()) == 294
