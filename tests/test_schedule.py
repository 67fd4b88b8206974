"""Numbers that change with the step: their values, where they may stand, what is refused."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter

from opsd.methods import opsd
from opsd.methods.method import Method
from opsd.methods.parsing import method
from opsd.objective.targets import Mixture, Purified
from opsd.schedule import Joined, Linear, at, check
from opsd.teacher.weights import EMA
from opsd.types import UserError


def test_linear_reaches_both_ends_and_stays():
    made = [Linear(0.5, 0.8, steps=4)(step, 100) for step in range(6)]
    assert made == pytest.approx([0.5, 0.6, 0.7, 0.8, 0.8, 0.8])
    assert [Linear(1.0, 0.0)(step, 3) for step in range(4)] == [1.0, 0.5, 0.0, 0.0]
    assert Linear(1.0, 0.0)(0, 1) == 0.0  # a run of one step is at its end


def test_joined_pieces_count_anew_and_the_last_one_stays():
    warm = Joined(((2, 0.0), (3, Linear(1.0, 2.0)), (1, 5.0)))
    assert [warm(step, 100) for step in range(8)] == [0.0, 0.0, 1.0, 1.5, 2.0, 5.0, 5.0, 5.0]


def test_numbers_take_their_places_at_every_depth():
    rising = {"type": "linear", "start": 0.9, "end": 0.99}
    scheduled = method(
        {
            "name": "opsd",
            "signal": {
                "teacher": {
                    "weights": {
                        "type": "ema",
                        "decay": rising,
                    },
                    "target": {
                        "type": "mixture",
                        "weights": [{"type": "linear", "start": 0.5, "end": 0.8, "steps": 4}],
                        "student": {"type": "joined", "pieces": [[2, 0.5], [2, 0.25]]},
                    },
                }
            },
        }
    )
    teacher = scheduled.signal.teacher
    assert teacher.weights == EMA(Linear(0.9, 0.99))
    now = at(scheduled, 3, 11).signal.teacher
    assert now.target == Mixture((0.8,), 0.25) and now.weights.decay == pytest.approx(0.927)
    adapter = TypeAdapter(Method)
    assert adapter.validate_json(adapter.dump_json(scheduled)) == scheduled


def test_a_value_without_schedules_is_itself():
    for value in (opsd(), (1.0, (2.0,)), [opsd().signal], 3):
        assert at(value, 5, 10) is value or isinstance(value, list)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (
            EMA(Linear(0.9, 1.5)),
            "a schedule gives decay 1.02 at step 3: Input should be less than 1",
        ),
        (Purified(beta=Linear(1.0, 0.0)), "beta 0 at step 11: Input should be greater than 0"),
    ],
)
def test_a_schedule_that_leaves_its_numbers_range_is_refused_at_the_start(value, told):
    with pytest.raises(UserError, match=told):
        check((value,), 11)
    check((at(value, 0, 11),), 11)


def test_a_schedule_prints_as_its_numbers():
    assert f"{Linear(0.5, 0.8):g}" == "0.5..0.8"
    assert f"{Joined(((2, 0.1), (3, Linear(0, 1)))):g}" == "0.1 (2 steps), 0..1 (3 steps)"


@pytest.mark.parametrize(
    ("decay", "told"),
    [
        (1.5, "method.signal.teacher.weights.decay: Input should be less than 1"),
        ("x", "method.signal.teacher.weights.decay: Input should be a valid number"),
        ({"type": "linear", "start": 0.5}, "method.signal.teacher.weights.decay.end: "),
        ({"type": "cosine"}, "method.signal.teacher.weights.decay: "),
    ],
)
def test_a_mistake_in_a_number_is_named_once(decay, told):
    weights = {"type": "ema", "decay": decay}
    with pytest.raises(UserError, match=told) as error:
        method({"name": "opsd", "signal": {"teacher": {"weights": weights}}})
    assert "more)" not in str(error.value)
