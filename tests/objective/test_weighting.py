"""Weightings: which tokens take part, and by how much."""

from dataclasses import replace

import pytest
import torch
from tests.objective.test_credit import table_of
from tests.peers import apply_importance_sampling_clipping

from opsd.objective.weighting import (
    ClipTokens,
    Contrasted,
    EarlyTokens,
    ImportanceWeight,
    PassRate,
    Ramp,
    SkipFirst,
    TopTokens,
)

NONE = torch.zeros(8, dtype=torch.bool)


def test_skip_first_takes_tokens_out_of_the_count():
    position = torch.tensor([0, 1, 2, 3, 0, 1])
    assert SkipFirst(2).mask(position, NONE[:6]).tolist() == [
        False,
        False,
        True,
        True,
        False,
        False,
    ]
    assert SkipFirst(0).mask(position, NONE[:6]).all()
    table = table_of([0.0, 0.0], [0, 0], [4, 2])
    assert torch.equal(SkipFirst(2)(table), torch.ones(6))


def test_clip_tokens_bounds_the_loss_and_keeps_its_sign():
    divergence = torch.tensor([0.0, 0.01, 0.05, 0.2, 4.0])
    table = table_of([0.0], [0], [5], divergence=divergence)
    weight = ClipTokens(0.05)(table)
    torch.testing.assert_close(weight * divergence, divergence.clamp(max=0.05))
    assert (
        torch.equal(weight[:3], torch.ones(3))
        and ClipTokens(0.05).mask(table.position, table.special).all()
    )


def test_importance_weight_equals_trl():
    generator = torch.Generator().manual_seed(0)
    student, sampler = (torch.randn(8, generator=generator) for _ in range(2))
    table = table_of([0.0], [0], [8], logp_sampler=sampler, logp_student=student)
    theirs = apply_importance_sampling_clipping(torch.ones(8), student, sampler, 2.0)
    torch.testing.assert_close(ImportanceWeight(2.0)(table), theirs)
    assert ImportanceWeight(2.0).mask(table.position, table.special).all()


@pytest.mark.parametrize(
    "weighting", [ClipTokens(0.05), ImportanceWeight(), EarlyTokens(), TopTokens(), Contrasted()]
)
def test_a_missing_statistic_is_named(weighting):
    with pytest.raises(ValueError, match="records no"):
        weighting(table_of([0.0], [0], [2]))


LENGTHS = [5, 1, 8, 3]


def random_table(seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    columns = {
        name: torch.randn(sum(LENGTHS), generator=generator)
        for name in ("logp_target", "divergence", "entropy_student")
    }
    return table_of([1.0, 0.0, 1.0, 1.0], [0, 0, 0, 1], LENGTHS, **columns)


def by_rollout(column):
    return [x.tolist() for x in column.split(LENGTHS)]


def test_pass_rate_weighs_the_frontier_most():
    weights = by_rollout(PassRate(4.0)(random_table()))
    assert all(w == pytest.approx([8 / 9] * len(w)) for w in weights[:3])
    assert weights[3] == [0.0] * 3
    half = table_of([1.0, 0.0], [0, 0], [1, 1])
    assert PassRate(4.0)(half).tolist() == [1.0, 1.0] and PassRate()(half).tolist() == [0.25] * 2


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_early_tokens_follow_the_share_of_what_is_still_to_come(gamma):
    table = random_table()
    made = by_rollout(EarlyTokens(gamma)(table))
    for weights, gaps in zip(made, by_rollout(table.column("logp_target").abs()), strict=True):
        for j, weight in enumerate(weights):
            expected = 1 + gamma * (1 - sum(gaps[:j]) / sum(gaps))
            assert weight == pytest.approx(expected, abs=1e-6)


def test_a_ramp_goes_from_its_start_to_its_end_in_every_rollout():
    made = by_rollout(Ramp(0.5, 1.5)(random_table()))
    assert made[0] == pytest.approx([0.5, 0.75, 1.0, 1.25, 1.5])
    assert made[1] == [0.5] and made[3] == pytest.approx([0.5, 1.0, 1.5])


@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
@pytest.mark.parametrize("by", ["entropy_student", "divergence"])
def test_top_tokens_are_the_largest_of_each_rollout_and_keep_its_weight(share, by):
    table = random_table()
    made = by_rollout(TopTokens(share, by)(table))
    for weights, values in zip(made, by_rollout(table.column(by)), strict=True):
        kept = -(-len(values) * share // 1)
        order = sorted(range(len(values)), key=lambda j: -values[j])
        inside = set(order[: int(kept)])
        expected = [len(values) / kept if j in inside else 0.0 for j in range(len(values))]
        assert weights == pytest.approx(expected)
        assert sum(weights) == pytest.approx(len(values))


def test_top_tokens_by_surprisal_are_those_that_the_student_found_least_likely():
    table = random_table()
    logp = -table.column("divergence").abs()
    by_surprisal = TopTokens(0.5, "surprisal_student")(
        replace(table, statistics={"logp_student": logp})
    )
    by_size = TopTokens(0.5, "divergence")(replace(table, statistics={"divergence": -logp}))
    assert torch.equal(by_surprisal, by_size) and 0 < (by_surprisal > 0).float().mean() < 1


@pytest.mark.parametrize("tau", [0.5, 1.0])
def test_contrasted_counts_tokens_by_what_the_hints_differ_in(tau):
    contrast = torch.tensor([0.0, 0.5, 1.0, 100.0])
    table = table_of([0.0], [0], [4], **{"target/contrast": contrast})
    expected = [c / (c + tau) for c in contrast.tolist()]
    assert Contrasted(tau)(table).tolist() == pytest.approx(expected)
