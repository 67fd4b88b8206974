"""Names that users give, to views and to what parts see, meet no fixed name."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.objective.test_credit import table_of
from tests.oracle import Oracle, assert_gradients, assert_values, f64, log_softmax

from opsd import methods
from opsd.objective.credit import Gated
from opsd.objective.divergences import forward_kl
from opsd.objective.head import TeacherHidden
from opsd.objective.support import Full, TopK
from opsd.objective.targets import Barycenter, Mixture, PerView, TargetLogits
from opsd.objective.terms import ChunkDivergence, ChunkLogProb

N, V = 32, 60
FIXED = ("student", "target", "teacher", "sampler", "divergence", "entropy_student")


def rows(seed: int) -> tuple[list[torch.Tensor], torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = [2 * torch.randn(N, V, generator=generator) for _ in range(3)]
    return logits, torch.randint(0, V, (N,), generator=generator)


def views(*names: str) -> list[TeacherHidden]:
    return [TeacherHidden(name, torch.empty(0), None) for name in names]


@pytest.mark.parametrize("support", [Full(), TopK(10)])
@pytest.mark.parametrize("name", FIXED)
def test_a_view_of_any_name_leaves_the_students_numbers_alone(name, support):
    (student, one, two), tokens = rows(0)
    expected = torch.log_softmax(student, -1).gather(-1, tokens[:, None]).squeeze(-1)
    own = None
    for names in (("one", "two"), ("one", name), (name, "two")):
        made = ChunkDivergence(views(*names), forward_kl, Mixture((0.5, 0.5)), support)
        seen = made(student.clone(), [one.clone(), two.clone()], tokens).statistics
        assert torch.allclose(seen["logp_student"], expected, atol=1e-5)
        fixed = {key: seen[key] for key in seen if not key.startswith("view/")}
        own = own or fixed
        assert fixed.keys() == own.keys()
        assert all(torch.equal(fixed[key], own[key]) for key in fixed)


@pytest.mark.parametrize("name", FIXED)
def test_a_gated_view_of_any_name_votes_the_same(name):
    (student, one, two), tokens = rows(1)
    votes = []
    for names in (("one", "two"), ("one", name)):
        made = ChunkLogProb(views(*names), PerView())(student.clone(), [one, two], tokens)
        table = table_of([1.0], [0], [N], **made.statistics)
        scales = {n: torch.tensor([0.5]) for n in names}
        votes.append(Gated()(replace(table, scales=scales)))
    assert torch.equal(*votes)


def test_what_a_target_sees_may_have_any_name():
    class Odd(Mixture):
        def __call__(self, views, student):
            return TargetLogits(
                super().__call__(views, student).logits, {n: torch.ones(N) for n in FIXED}
            )

    (student, one, _), tokens = rows(2)
    made = ChunkDivergence(views("one"), forward_kl, Odd())(student.clone(), [one.clone()], tokens)
    plain = ChunkDivergence(views("one"), forward_kl, Mixture())(student, [one], tokens)
    assert torch.equal(made.statistics["divergence"], plain.statistics["divergence"])
    assert torch.equal(made.statistics["target/divergence"], torch.ones(N))


def test_demopsd_weighs_by_the_students_own_ratio():
    """Loss and gradient in float64: the importance ratio is the student's, not the average's."""
    (student, teacher, average), tokens = rows(3)
    ((_, leaf),) = methods.demopsd(k=10).signals
    names = ("demonstration", "own_prompt")
    made = leaf.term(views(*names), 1.0)(
        student.clone(), [teacher.clone(), average.clone()], tokens
    )
    logp = log_softmax(f64(student))[range(N), tokens.numpy()]
    older = logp + 0.3 * f64(torch.randn(N, generator=torch.Generator().manual_seed(4)))
    table = table_of([1.0], [0], [N], torch.tensor(older).float(), **made.statistics)
    ratio = torch.exp(torch.tensor(logp - older)).clamp(max=2).numpy()

    restricted = TopK(10)(student, [teacher, average], names)
    target = Barycenter()(restricted.views, restricted.student).logits
    value, gradient = Oracle("reverse_kl")(restricted.student, target)
    losses = leaf.losses(made.value, table)
    weight = losses / made.value
    assert_values(losses, value * ratio, 1e-4)
    gradient = restricted.expand(torch.tensor(gradient).float())
    assert_gradients(
        made.gradient * weight[:, None], f64(gradient) * ratio[:, None], 1e-4, floor=1e-7
    )
