"""What the fused loss costs: products with the head, and nothing over the vocabulary outside a
chunk."""

import pytest
import torch
from tests.objective.test_fused import Case, terms_of
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from opsd.objective.fused import chunk_rows_for, fused_terms, head_products
from opsd.objective.head import Head, TeacherHidden
from opsd.objective.terms import ChunkDivergence, ChunkLogProb


@pytest.mark.parametrize(
    ("trained", "planned", "distill", "likelihood"),
    [(False, False, 3, 2), (True, True, 4, 3), (True, False, 6, 4)],
)
def test_products_with_the_head(trained, planned, distill, likelihood):
    case = Case(rows=32, vocab=512, hidden=64, trained=trained)
    view = TeacherHidden("teacher", case.teacher, case.head)
    for term, expected in ((ChunkDivergence((view,)), distill), (ChunkLogProb(), likelihood)):
        counter = FlopCounterMode(display=False)
        plan = [case.weights] if planned else None
        with counter:
            (value,), _ = fused_terms(
                case.student, case.head, [term], case.tokens, chunk_rows=8, planned=plan
            )
            (value * case.weights).sum().backward()
        product = 2 * case.rows * case.vocab * case.hidden
        assert counter.get_total_flops() == expected * product
        assert head_products(case.head, [term], planned) == expected


class Largest(TorchDispatchMode):
    """The size of the largest tensor that any operation returns, in entries."""

    entries = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self.entries = max(self.entries, leaf.numel())
        return result


@pytest.mark.parametrize("planned", [False, True])
@pytest.mark.parametrize("trained", [False, True])
def test_no_tensor_over_the_vocabulary_outside_a_chunk(trained, planned):
    for rows in (64, 512):
        case = Case(rows=rows, vocab=1000, hidden=4, trained=trained)
        # A trained head's own gradient, [V, D], is as large as the head.
        limit = max(2 * 8 * case.vocab, case.rows * 4)
        plan = [case.weights] * 3 if planned else None
        with Largest() as largest:
            values, _ = fused_terms(
                case.student, case.head, terms_of(case), case.tokens, chunk_rows=8, planned=plan
            )
            sum((v * case.weights).sum() for v in values).backward()
        assert largest.entries <= 3 * 8 * case.vocab, rows
        assert largest.entries >= limit or rows == 64


def test_chunks_follow_the_budget():
    case = Case()
    view = TeacherHidden("teacher", case.teacher, case.head)
    small = Head(torch.empty(151_936, 1, device="meta"))
    assert chunk_rows_for(small, [ChunkDivergence((view,))], "cpu") == 27
    assert chunk_rows_for(small, [ChunkDivergence((view,))], "cuda") == 441
    half = Head(torch.empty(151_936, 1, device="meta", dtype=torch.bfloat16))
    assert chunk_rows_for(half, [ChunkDivergence((view,))], "cpu") == 18
    huge = Head(torch.empty(10**6, 1, device="meta"))
    assert chunk_rows_for(huge, [ChunkDivergence((view,))], "cpu") == 16
    assert chunk_rows_for(case.head, [ChunkLogProb()], "cpu") > 1000
