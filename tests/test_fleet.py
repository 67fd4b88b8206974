"""The simulated fleet against what can be said without simulating."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from benchmarks.costs import GPU
from benchmarks.fleet import __main__ as command
from benchmarks.fleet.calibration import ADAPTER, SYNCS, fleet, givens, learning, lengths, size
from benchmarks.fleet.simulation import Fleet, fixed, lognormal, simulate
from hypothesis import given, settings
from hypothesis import strategies as st

FULL = Fleet(4, 8, 0.01, 0.001, batch=32, train_s=10.0, sync_s=2.0)
"""A batch fills every engine."""


def write_s(made: Fleet, tokens: int) -> float:
    """Seconds in which full engines write so many tokens of each rollout."""
    return tokens * (made.token_s + made.token_s_per_rollout * made.slots)


@pytest.mark.parametrize("tokens", [100, 5000])
def test_without_staleness_writing_learning_and_weights_take_turns(tokens: int):
    seen = simulate(FULL, fixed(tokens), 20)
    period = write_s(FULL, tokens) + FULL.train_s + FULL.sync_s
    assert seen.period_s == pytest.approx(period)
    assert seen.trainers == pytest.approx(FULL.train_s / period)
    assert seen.engines == pytest.approx(write_s(FULL, tokens) / period)
    assert seen.load == pytest.approx(seen.engines) and seen.oldest == 0


@pytest.mark.parametrize("tokens", [100, 5000])
def test_with_staleness_the_slower_of_both_is_what_a_step_takes(tokens: int):
    made = replace(FULL, staleness=3)
    seen = simulate(made, fixed(tokens), 30)
    assert seen.period_s == pytest.approx(max(write_s(made, tokens), 10.0) + 2.0)
    assert 0 < seen.mean_age <= seen.oldest <= 3


def test_engines_with_room_write_faster_and_batches_larger_than_the_fleet_wait():
    few = simulate(replace(FULL, batch=4), fixed(1000), 10)
    assert few.period_s == pytest.approx(1000 * (0.01 + 0.001) + 12.0)
    many = simulate(replace(FULL, batch=64), fixed(1000), 10)
    assert many.period_s == pytest.approx(2 * write_s(FULL, 1000) + 12.0)


def test_of_uneven_lengths_the_longest_is_waited_for():
    made = replace(FULL, engines=32, slots=1, token_s_per_rollout=0.0)
    seen = simulate(made, lambda generator, count: 100.0 * (1 + np.arange(count)), 10)
    assert seen.period_s == pytest.approx(100 * 32 * 0.01 + 12.0)


def test_failures_cost_what_was_half_written():
    made = replace(FULL, failure_s=400.0, restart_s=50.0)
    calm = simulate(replace(FULL), lognormal(500, 0.7, 4000), 60)
    seen = simulate(made, lognormal(500, 0.7, 4000), 60)
    assert seen.period_s > calm.period_s and seen.lost > 0 == calm.lost


fleets = st.builds(
    Fleet,
    engines=st.integers(1, 6),
    slots=st.integers(1, 5),
    token_s=st.just(0.01),
    token_s_per_rollout=st.floats(0.0, 0.01),
    batch=st.integers(1, 20),
    train_s=st.floats(0.0, 5.0),
    sync_s=st.floats(0.0, 2.0),
    staleness=st.integers(0, 4),
    failure_s=st.sampled_from([math.inf, 30.0, 8.0]),
    restart_s=st.floats(0.1, 5.0),
)


@settings(max_examples=60, deadline=None)
@given(made=fleets, seed=st.integers(0, 99))
def test_no_rollout_is_lost_or_doubled_and_none_is_too_old(made: Fleet, seed: int):
    steps = made.staleness + 8
    seen = simulate(made, lognormal(80, 0.8, 300), steps, seed)
    assert len(seen.written) == steps * made.batch and set(seen.written) == {1}
    assert 0 <= seen.mean_age <= seen.oldest <= made.staleness
    assert all(0 <= share <= 1 + 1e-9 for share in (seen.trainers, seen.engines, seen.load))
    assert seen.period_s >= made.train_s + made.sync_s - 1e-9
    again = simulate(made, lognormal(80, 0.8, 300), steps, seed)
    assert again.period_s == seen.period_s


def test_lengths_have_their_mean_and_their_cut():
    drawn = lognormal(2000, 0.5, 10**9)(np.random.default_rng(0), 50_000)
    assert drawn.mean() == pytest.approx(2000, rel=0.02)
    assert np.log(drawn).std() == pytest.approx(0.5, rel=0.02)
    assert lengths()(np.random.default_rng(0), 5000).max() == 8192


def test_every_number_that_is_put_in_has_a_source():
    assert {g.kind for g in givens()} == {"assumed", "counted", "measured here", "published"}
    assert all(g.source for g in givens() if g.kind != "assumed")


def test_trainers_share_the_work_and_weights_are_sent():
    one, many = learning(2048, 1, GPU()), learning(2048, 256, GPU())
    assert 200 < one / many < 256
    seconds = {(sync.what, sync.way): sync.seconds(1000) for sync in SYNCS}
    assert seconds["adapter", "one sender"] == pytest.approx(1 + 1000 * size("adapter") / 25e9)
    assert seconds["adapter", "tree"] == pytest.approx(1 + 10 * size("adapter") / 25e9)
    assert fleet(1000, 256, 1).sync_s == ADAPTER.seconds(1000) == seconds["adapter", "one sender"]


def test_the_command_stores_a_grid_and_what_follows(tmp_path: Path, capsys):
    file = tmp_path / "fleet.json"
    words = ["--engines", "4", "16", "--ranks", "8", "--staleness", "0", "1"]
    assert command.main([*words, "--json", str(file)]) == 0
    rows = json.loads(file.read_text())["rows"]
    seen = {(r["engines"], r["staleness"]): r for r in rows if r["measure"] == "fleet"}
    assert len(seen) == 4
    assert seen[16, 1]["steps_per_hour"] > seen[16, 0]["steps_per_hour"]
    assert seen[16, 1]["steps_per_hour"] > seen[4, 1]["steps_per_hour"]
    hours = seen[16, 0]
    assert hours["gpu_hours_per_step"] == pytest.approx(24 / hours["steps_per_hour"], rel=1e-2)
    (told,) = (row for row in rows if row["measure"] == "saturates")
    assert (told["engines"], told["staleness"]) == (16, 1)
    assert {r["measure"] for r in rows} == {
        *("given", "fleet", "saturates", "grows", "sync", "failures")
    }
