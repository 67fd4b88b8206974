"""A paper's number stands beside ours only where both are of the same thing."""

from __future__ import annotations

import pytest

from opsd.suites.loading import SUITES
from opsd.suites.published import Ours, ours, reference, together

AFRICAN = [c for c in SUITES["afrimgsm"].languages if c not in SUITES["afrimgsm"].aside]
MEAN = {"suite": "afrimgsm", "metric": "pass@12", "value": 20.6, "budget": 2048}


def row(language: str, solved: float, **changes: object) -> dict[str, object]:
    return {
        "model": "m",
        "suite": "afrimgsm",
        "language": language,
        "labels": "upstream",
        "budget": 2048,
        "n_problems": 250,
        "samples": 12,
        "avg@k": solved / 2,
        "pass@k": solved,
    } | changes


def test_a_mean_is_over_every_language_of_the_suite_that_the_papers_mean_has():
    rows = [row(code, 0.1 * i) for i, code in enumerate(AFRICAN)]
    (mean,) = ours(MEAN, [*rows, row("eng", 1.0), row("fra", 1.0)])
    assert mean == Ours("m", 2048, pytest.approx(0.1 * (len(AFRICAN) - 1) / 2))
    for missing in (0, len(AFRICAN) - 1):
        assert ours(MEAN, rows[:missing] + rows[missing + 1 :]) == []
    assert ours(MEAN, [{**one, "budget": 1024} for one in rows]) == []


def test_models_and_budgets_are_kept_apart():
    number = {"suite": "gsm8k", "metric": "avg@12", "value": 50.0, "budget": 512}
    rows = [
        row("eng", solved, suite="gsm8k", n_problems=1319, model=model, budget=budget)
        for model, budget, solved in (("base", 512, 0.2), ("base", 1024, 0.4), ("mine", 512, 0.6))
    ]
    assert ours(number, rows) == [
        Ours("base", 512, 0.1),
        Ours("mine", 512, 0.3),
    ]
    assert ours({**number, "budget": None}, rows) == []  # nobody knows what it was measured with


@pytest.mark.parametrize(
    "change",
    [
        {"samples": 4},
        {"budget": 4096},
        {"language": "yor"},
        {"labels": "corrected"},
        {"n_problems": 25},
        {"suite": "mgsm"},
    ],
)
def test_what_was_measured_otherwise_does_not_answer(change: dict):
    number = {**MEAN, "language": "swa"}
    assert ours(number, [row("swa", 0.5)]) == [Ours("m", 2048, 0.5)]
    assert ours(number, [row("swa", 0.5) | change]) == []


def test_a_part_of_a_suite_and_a_gain_have_no_answer():
    for change in ({"split": "high"}, {"metric": "pass@12 gain"}):
        assert ours({**MEAN, "language": "swa", **change}, [row("swa", 0.5)]) == []


def test_of_a_suite_that_is_not_known_nobody_can_say_whether_it_is_whole():
    number = {"suite": "mine", "metric": "pass@12", "value": 50.0}
    assert ours(number, [row("eng", 0.5, suite="mine", n_problems=30)]) == []
    assert ours(number, [{"model": "m", "language": "eng"}]) == []


def test_a_suites_numbers_are_shown_for_the_model_that_is_evaluated():
    shown = reference(SUITES["aime24"], ["Qwen/Qwen3-1.7B", "runs/mine/model"])
    assert {number["model"] for number in shown} == {"Qwen3-1.7B"}
    assert {"base", "grpo", "opsd"} <= {number["method"] for number in shown}
    assert reference(SUITES["aime24"], ["qwen3-17b"]) == []
    assert together(shown, shown) == shown and len(together(shown[:1], shown)) == len(shown)


def test_numbers_on_more_problems_than_can_be_judged_have_no_answer():
    number = next(SUITES["amo_bench"].printed())
    judged = row("eng", 0.5, suite="amo_bench", n_problems=39, samples=16, budget=38912)
    assert ours(number, [judged]) == []
    assert ours(number, [{**judged, "n_problems": 50}]) != []
