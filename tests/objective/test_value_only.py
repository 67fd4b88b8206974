"""A divergence of which only the value is known gives what the same one's closed form gives."""

from __future__ import annotations

import pytest
import torch
from tests.objective.test_fused import Case

from opsd.objective.divergences import forward_kl, jsd, reverse_kl
from opsd.objective.fused import fused_divergence, fused_terms
from opsd.objective.head import Head, TeacherHidden
from opsd.objective.support import Full, TopK
from opsd.objective.targets import Mixture, Single
from opsd.objective.terms import ChunkDivergence
from opsd.types import UserError


def by_value(divergence):
    """The same function, of which nobody knows more than that it can be called."""
    return lambda student, target: divergence(student, target)


@pytest.mark.parametrize("divergence", [forward_kl, reverse_kl, jsd(0.3)], ids=str)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("support", [Full(), TopK(k=20), TopK(k=20, rest="renormalise")], ids=str)
@pytest.mark.parametrize("target", [Single(), Mixture((0.8,), 0.2)], ids=str)
def test_value_gradient_and_statistics(divergence, temperature, support, target):
    found = []
    for own in (divergence, by_value(divergence)):
        case = Case(rows=11, vocab=60)
        view = TeacherHidden("teacher", case.teacher, case.head)
        term = ChunkDivergence((view,), own, target, support, temperature)
        (values,), (columns,) = fused_terms(
            case.student, case.head, [term], case.tokens, chunk_rows=4
        )
        (values * case.weights).sum().backward()
        found.append((values.detach(), case.student.grad, columns))
    (values, gradient, columns), (theirs, their_gradient, their_columns) = found
    torch.testing.assert_close(theirs, values, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(their_gradient, gradient, rtol=1e-3, atol=1e-6)
    assert columns.keys() == their_columns.keys()
    for name, column in columns.items():
        torch.testing.assert_close(their_columns[name], column, rtol=1e-4, atol=1e-5, msg=name)


def test_a_trained_head_gets_the_same_gradient():
    found = []
    for own in (jsd(0.5), by_value(jsd(0.5))):
        case = Case(rows=9, vocab=50)
        weight = case.head.weight.detach().clone().requires_grad_()
        values = fused_divergence(case.student, case.teacher, Head(weight), own, chunk_rows=4)
        (values * case.weights).sum().backward()
        found.append(weight.grad)
    torch.testing.assert_close(found[1], found[0], rtol=1e-3, atol=1e-6)


def test_another_shape_than_a_value_a_row_is_refused():
    case = Case(rows=5, vocab=30)
    with pytest.raises(
        UserError, match=r"shape \[\] for rows \[5, 30\]: it must sum over the last"
    ):
        fused_divergence(case.student, case.teacher, case.head, lambda p, q: (p - q).sum())
