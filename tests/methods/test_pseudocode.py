"""Every method in four to eight lines that name its parts."""

from __future__ import annotations

import pytest
from tests.test_own_parts import METHOD

from opsd.methods import catalogue
from opsd.methods.pseudocode import pseudocode
from opsd.methods.signals import loss_terms
from opsd.parts import tag


@pytest.mark.parametrize("name", catalogue())
def test_a_method_is_a_few_lines(name: str):
    method = catalogue()[name]
    lines = pseudocode(method)
    assert 4 <= len(lines) <= 8 and lines[0].startswith("rollout") and lines[-1].startswith("step")
    text = "\n".join(lines)
    for _, term in loss_terms(method.signal):
        if term.teacher is not None:
            assert term.teacher.context.label in text
            assert all(tag(weights) in text for weights in term.teacher.all_weights)
        assert all(tag(weighting) in text for weighting in term.weighting)


def test_what_copsd_does():
    assert pseudocode(catalogue()["copsd"]) == [
        "rollouts = student.sample(problem as student, n=1, full)",
        "p = student(next token | student)",
        "q = frozen(next token | crosslingual)",
        "loss = pointwise_clip(divergence=forward_kl, cap=0.05)(p, q)",
        "step once on mean over tokens(loss)",
    ]


def test_somebodys_own_parts_are_named():
    text = "\n".join(pseudocode(METHOD))
    assert "tests.own_parts:hellinger(p, q1)" in text
    assert "tests.own_parts:Sharper(power=2) of frozen" in text
