"""Horizons: how many tokens a completion may use."""

from __future__ import annotations

import pytest

from opsd.rollout.horizon import FullHorizon, Progressive, Truncated
from opsd.schedule import Linear
from opsd.types import UserError


def test_truncated_is_a_share_of_the_limit():
    assert Truncated(0.25)(7, 100, 15_360) == 3840 and Truncated(0.1)(0, 100, 15_360) == 1536
    assert Truncated(1.0)(3, 10, 17) == FullHorizon()(3, 10, 17) == 17
    assert [Truncated(Linear(0.1, 1.0))(step, 10, 100) for step in (0, 4, 9, 20)] == [
        10,
        50,
        100,
        100,
    ]
    with pytest.raises(UserError, match="is below one token of 9"):
        Truncated(0.1)(0, 10, 9)


def test_progressive_is_the_papers_step_function():
    horizon = Progressive(start=100, growth=50, every=20)
    for step in range(0, 300, 7):
        assert horizon(step, 300, 400) == min(400, 100 + 50 * (step // 20))
    made = [Progressive()(step, 200, 1000) for step in range(200)]
    assert made[0] == 100 and made[-1] == 1000 and made == sorted(made)
    assert sum(made) / (200 * 1000) == pytest.approx(0.55)
    # A short limit and a short run leave at least one token, and never more than the limit.
    assert [Progressive()(step, 3, 5) for step in range(12)] == [1, 2, 3, 4, *[5] * 8]


def test_a_progressive_horizon_that_starts_at_the_limit_is_the_whole():
    assert all(Progressive(start=64, growth=0)(step, 10, 64) == 64 for step in range(10))
