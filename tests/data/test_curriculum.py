"""A curriculum draws by what it was told, alike wherever and whenever it is asked."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from opsd.data.batches import StepSampler, StepShape
from opsd.data.curriculum import AnyCurriculum, Frontier, outcomes
from opsd.types import Finish, Group, Problem, Rollout, Verdict

FRONTIER = Frontier()
few = settings(max_examples=40, deadline=None, derandomize=True)
histories = st.lists(
    st.lists(st.tuples(st.integers(0, 7), st.integers(0, 4)), max_size=6), max_size=12
)


def rows(n: int) -> list[Problem]:
    return [Problem(f"{i}", id=f"p{i}") for i in range(n)]


def told(history, curriculum: Frontier = FRONTIER, n: int = 8, seed: int = 0):
    """A curriculum that was told of steps: (problem, right ones among 4) pairs."""
    made = curriculum.begin(rows(n), seed)
    for step in history:
        made.record([(f"p{i}", right, 4) for i, right in step])
    return made


@few
@given(histories, st.floats(0.5, 100), st.floats(0.1, 8))
def test_pass_rates_are_the_faded_shares(history, half_life, prior):
    made = told(history, Frontier(half_life, prior))
    right, graded = np.zeros(8), np.zeros(8)
    for age, step in enumerate(reversed(history)):
        for i, n in step:
            right[i] += n * 2.0 ** (-age / half_life)
            graded[i] += 4 * 2.0 ** (-age / half_life)
    expected = (right + prior / 2) / (graded + prior)
    np.testing.assert_allclose(made.pass_rates, expected, rtol=1e-9)
    assert ((made.pass_rates > 0) & (made.pass_rates < 1)).all()


def test_what_was_never_tried_weighs_most_and_what_is_forgotten_comes_back():
    made = told([[(0, 4), (1, 0), (2, 2)]], Frontier(half_life=2.0))
    solved, hopeless, frontier, new = made.pass_rates[:4].tolist()
    assert solved == pytest.approx(0.9) and hopeless == pytest.approx(0.1)
    assert frontier == new == 0.5
    for _ in range(40):
        made.record([])
    assert made.pass_rates[:2].tolist() == pytest.approx([0.5, 0.5], abs=1e-4)


@few
@given(histories, st.integers(0, 99), st.integers(0, 50), st.integers(1, 20))
def test_a_step_has_no_problem_twice_before_it_has_all(history, seed, step, count):
    drawn = told(history, seed=seed).draw(step, count)
    times = Counter(drawn)
    assert (
        len(drawn) == count
        and max(times.values()) - (min(times.values()) if len(times) == 8 else 0) <= 1
    )
    again = told(history, seed=seed)
    again.draw(step + 1, 3)  # asking changes nothing
    assert again.draw(step, count) == drawn


def test_problems_come_in_proportion_to_p_times_1_minus_p():
    made = told([[(0, 4), (1, 0), (2, 2), (3, 1)]], n=4)
    drawn = Counter(made.draw(step, 1)[0] for step in range(4000))
    p = made.pass_rates.numpy()
    expected = p * (1 - p) / (p * (1 - p)).sum()
    share = np.array([drawn[i] for i in range(4)]) / 4000
    assert np.abs(share - expected).max() < 4 * np.sqrt(0.25 / 4000)
    assert share[2] > 1.5 * share[0]


@few
@given(histories, st.integers(0, 40))
def test_the_state_goes_through_json_bit_for_bit(history, step):
    made = told(history)
    fresh = Frontier().begin(rows(8), 0)
    fresh.record([("p3", 1, 4)])  # is forgotten
    fresh.load_state_dict(json.loads(json.dumps(made.state_dict())))
    assert fresh.pass_rates.equal(made.pass_rates)
    assert fresh.draw(step, 5) == made.draw(step, 5) and fresh.measured == made.measured


@few
@given(histories, st.integers(1, 3), st.integers(1, 3))
def test_processes_share_out_what_one_would_draw(history, world, reuse):
    def steps(rank: int, world: int) -> list[list[int]]:
        shape = StepShape(rollouts=12 // world, group=2, reuse=reuse, rank=rank, world=world)
        return list(StepSampler(24, shape, seed=3, curriculum=told(history, n=24)))

    if 6 % world:
        return
    parts = zip(*(steps(rank, world) for rank in range(world)), strict=True)
    assert [[i for own in part for i in own] for part in parts] == steps(0, 1)


def test_the_order_in_which_processes_tell_changes_nothing():
    outcomes = [("p0", 1, 4), ("p1", 3, 4), ("p0", 2, 4)]
    one, other = (Frontier().begin(rows(4), 0) for _ in range(2))
    for _ in range(5):
        one.record(outcomes)
        other.record(outcomes[::-1])
    assert one.pass_rates.equal(other.pass_rates)


def test_copies_of_a_problem_share_what_is_known_of_it():
    made = Frontier().begin([*rows(2), rows(1)[0]], 0)
    made.record([("p0", 4, 4)])
    assert made.pass_rates[0] == made.pass_rates[2] == pytest.approx(0.9)
    assert made.measured == {"pass_rate": pytest.approx(0.9), "tried": pytest.approx(2 / 3)}


def test_only_graded_rollouts_are_counted():
    verdicts = (Verdict(1.0, True, True), Verdict(0.0, False, True), None)
    rollouts = tuple(Rollout((), (), "", Finish.STOP, verdict=v) for v in verdicts)
    assert outcomes([Group(rows(1)[0], rollouts), Group(rows(2)[1], ())]) == [
        ("p0", 1, 2),
        ("p1", 0, 0),
    ]


def test_it_goes_to_plain_values_and_back():
    adapter = TypeAdapter(AnyCurriculum)
    assert adapter.validate_python(adapter.dump_python(Frontier(7.0), mode="json")) == Frontier(7.0)
