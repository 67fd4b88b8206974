"""Odd input of every kind is read, or refused in one line."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.faults.fuzz import TRIED, Outcome

SEEDS = st.integers(0, 2**32)


@pytest.mark.parametrize("kind", TRIED)
def test_nothing_is_a_traceback(kind):
    @settings(
        max_examples=300,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        derandomize=True,
    )
    @given(SEEDS)
    def tries(seed: int) -> None:
        seen[TRIED[kind](seed)] += 1
        assert not seen[Outcome.TRACEBACK], f"{kind} {seed}"

    seen: Counter[Outcome] = Counter()
    tries()
    # Both happen, so that neither of them is all that is tried.
    assert seen[Outcome.FINE] > 3 and seen[Outcome.ONE_LINE] > 3


@pytest.mark.parametrize("kind", TRIED)
def test_a_seed_is_one_example(kind):
    assert [TRIED[kind](seed) for seed in range(20)] == [TRIED[kind](seed) for seed in range(20)]
