"""Weightings: which tokens take part, and by how much."""

import pytest
import torch
from tests.objective.test_credit import table_of
from tests.peers import apply_importance_sampling_clipping

from opsd.objective.weighting import ClipImportance, ClipTokens, SkipFirst


def test_skip_first_takes_tokens_out_of_the_count():
    position = torch.tensor([0, 1, 2, 3, 0, 1])
    assert SkipFirst(2).mask(position).tolist() == [False, False, True, True, False, False]
    assert SkipFirst(0).mask(position).all()
    table = table_of([0.0, 0.0], [0, 0], [4, 2])
    assert torch.equal(SkipFirst(2)(table), torch.ones(6))


def test_clip_tokens_bounds_the_loss_and_keeps_its_sign():
    divergence = torch.tensor([0.0, 0.01, 0.05, 0.2, 4.0])
    table = table_of([0.0], [0], [5], divergence=divergence)
    weight = ClipTokens(0.05)(table)
    torch.testing.assert_close(weight * divergence, divergence.clamp(max=0.05))
    assert torch.equal(weight[:3], torch.ones(3)) and ClipTokens(0.05).mask(table.position).all()


def test_clip_importance_equals_trl():
    generator = torch.Generator().manual_seed(0)
    student, sampler = (torch.randn(8, generator=generator) for _ in range(2))
    table = table_of([0.0], [0], [8], logp_sampler=sampler, logp_student=student)
    theirs = apply_importance_sampling_clipping(torch.ones(8), student, sampler, 2.0)
    torch.testing.assert_close(ClipImportance(2.0)(table), theirs)
    assert ClipImportance(2.0).mask(table.position).all()


@pytest.mark.parametrize("weighting", [ClipTokens(0.05), ClipImportance()])
def test_a_missing_statistic_is_named(weighting):
    with pytest.raises(ValueError, match="records no"):
        weighting(table_of([0.0], [0], [2]))
