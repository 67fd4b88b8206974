"""How models are asked: as the user says, as a suite's numbers were measured, as usual."""

from __future__ import annotations

import pytest

from opsd.evaluate.command import evaluate_models
from opsd.evaluate.remote import Endpoint
from opsd.evaluate.settings import Settings, deviations
from opsd.prompts.contexts import StudentPrompt
from opsd.suites.files import Setting
from opsd.suites.loading import SUITES
from opsd.types import UserError

PAPER = Setting("a paper", samples=12, budgets=(1024, 2048), temperature=0.7, thinking=True)
THINKING, SILENT = (StudentPrompt(template_options={"enable_thinking": x}) for x in (True, False))


def test_what_the_user_says_goes_before_the_suite_and_that_before_the_usual():
    assert Settings().over(None) == Settings(4, (1024,), 1.0, 0.95)
    assert Settings().over(PAPER) == Settings(12, (1024, 2048), 0.7, 0.95)
    said = Settings(samples=2, budgets=[64], temperature=0.0, top_p=0.5)
    assert said.over(PAPER) == Settings(2, (64,), 0.0, 0.5)
    assert Settings(samples=2).over(PAPER).sampling.temperature == 0.7


@pytest.mark.parametrize("top_p", [0, -0.5, 1.5, float("nan")])
def test_a_top_p_that_leaves_nothing_is_refused(top_p: float):
    with pytest.raises(UserError, match=r"--top-p .*: write a number above 0, at most 1"):
        Settings(top_p=top_p)


def test_deviations_are_told_in_words():
    assert deviations(Settings().over(PAPER), THINKING, PAPER) == []
    assert deviations(Settings(budgets=[2048]).over(PAPER), StudentPrompt(), PAPER) == []
    said = Settings(samples=1, budgets=[64, 2048], temperature=1.0).over(PAPER)
    assert deviations(said, SILENT, PAPER) == [
        "samples 1 instead of 12",
        "temperature 1.0 instead of 0.7",
        "budget 64 and 2,048 instead of 1,024 and 2,048",
        "thinking off instead of on",
    ]


def test_published_settings_are_those_of_the_papers():
    for name in ("aime24", "aime25", "hmmt25"):
        setting = SUITES[name].protocol
        assert setting is not None
        assert (setting.samples, setting.budgets, setting.temperature) == (12, (38912,), 1.0)
    african = SUITES["afrimgsm"].protocol
    assert african is not None and african.budgets == (1024, 2048, 4096)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"samples": 0}, "--samples 0: write a whole number"),
        ({"samples": -2}, "--samples -2: write a whole number"),
        ({"budgets": (1024, 0)}, "--budget 0: write a whole number"),
        ({"budgets": (-1,)}, "--budget -1: write a whole number"),
        ({"limit": 0}, "--limit 0: write a whole number"),
        ({"limit": -5}, "--limit -5: write a whole number"),
        ({"temperature": -0.5}, "--temperature -0.5: write a number, 0 or above"),
        ({"temperature": float("nan")}, "--temperature nan: write a number"),
        ({"temperature": float("inf")}, "--temperature inf: write a number"),
    ],
)
def test_what_cannot_be_asked_is_refused(wrong: dict, told: str):
    with pytest.raises(UserError, match=told):
        evaluate_models(["miniature"], data="miniature", **wrong)


@pytest.mark.parametrize("timeout", [0.0, -1.0, float("nan"), float("inf")])
def test_an_endpoint_has_some_time_and_not_all(timeout: float):
    with pytest.raises(UserError, match=r"--timeout .*: write a number of seconds above 0"):
        Endpoint("http://here/v1", timeout=timeout)
