"""Numbers of a step: means over all processes, and time that no phase accounts for."""

from __future__ import annotations

import time

import pytest

from opsd.training.metrics import Metrics


def test_rates_add_up_by_their_counts():
    one, other = Metrics(), Metrics()
    one.add("accuracy", 1, 2)
    other.add("accuracy", 5, 6)
    (mine,) = [(dict(other.sums), other.lows, other.highs, dict(other.seconds))]
    assert one.merged(lambda parts: [*parts, mine])["accuracy"] == 6 / 8


def test_what_no_phase_took_is_unaccounted_for():
    metrics = Metrics()
    with metrics.timed("student"), metrics.timed("loss"):
        time.sleep(0.05)
    time.sleep(0.1)
    logged = metrics.merged(lambda parts: parts)
    assert logged["time/student"] >= 0.05 and logged["time/unaccounted"] >= 0.1
    assert logged["time/unaccounted"] == pytest.approx(0.1, abs=0.09)
    assert metrics.merged(lambda parts: parts)["time/unaccounted"] < 0.05
