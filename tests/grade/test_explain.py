"""The reason that is given is the reason that decided."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from opsd.cli.commands import app
from opsd.grade import answers_match
from opsd.grade.answer import compared
from opsd.grade.explain import explain
from opsd.grade.verifier import MathVerifier
from opsd.types import Problem, UserError


@pytest.mark.parametrize(
    ("completion", "gold", "language", "right", "told"),
    [
        (r"so \boxed{4}", "4", "eng", True, "both are written '4'"),
        (r"\boxed{1.234,50 kg}", "1234.5", "deu", True, "read as one number, is 2469/2"),
        (r"\boxed{50 \%}", "50%", "eng", True, "read as one number, is 50 %"),
        (r"\boxed{12}", "13", "eng", False, "is the number 12, not 13"),
        (r"\boxed{Monday}", "4", "eng", False, "is words, but the gold is the number 4"),
        (r"\boxed{\text{Monday}}", "tuesday", "eng", False, "words: 'monday' and 'tuesday'"),
        (r"\boxed{1 2}", r"2\pi", "eng", False, "next to each other"),
        (r"\boxed{(x+1)^2}", "x^2+2x+1", "eng", True, "Math-Verify takes for the same"),
        (r"\boxed{5x+7}", "5x+1", "eng", False, "Math-Verify does not take for the same"),
        (r"\boxed{" + "9" * 3000 + "}", "5", "eng", False, "2,000 characters are not an answer"),
        (r"\boxed{}", "5", "eng", False, r"none of 1 \boxed is complete"),
        (r"\boxed{4} and \boxed{5", "5", "eng", False, "the last complete one of 2 \\boxed counts"),
        ("five", "5", "eng", False, r"none of 0 \boxed is complete"),
    ],
)
def test_every_reason(completion: str, gold: str, language: str, right: bool, told: str):
    problem = Problem("?", answer=gold, language=language)
    verdict, steps = explain(problem, completion)
    assert verdict == MathVerifier()(problem, completion) and verdict.correct is right
    assert told in steps
    assert steps.splitlines()[-1].startswith("right" if right else "wrong")
    assert all(len(line) < 1000 for line in steps.splitlines())


def test_a_completion_that_still_thinks_has_not_answered():
    verdict, steps = explain(Problem("?", answer="4"), r"<think> \boxed{4}", after_think=True)
    assert not verdict.correct and "still thinking" in steps
    done, _ = explain(Problem("?", answer="4"), r"<think></think> \boxed{4}", after_think=True)
    assert done.correct


@settings(max_examples=30, deadline=None)
@given(st.text(max_size=12), st.text(min_size=1, max_size=12))
def test_whatever_is_compared_the_verdict_has_a_reason(answer: str, gold: str):
    comparison = compared(answer, gold)
    assert comparison.same is answers_match(answer, gold) and comparison.why


def test_the_command_says_right_or_wrong_and_why():
    run = CliRunner().invoke
    assert run(app, ["grade", r"\boxed{4}", "--answer", "4"]).stdout == "right\n"
    assert run(app, ["grade", "-", "--answer", "4"], input="4").stdout == "wrong\n"
    for empty in ("", " ", "####", r"\boxed{}", r"so \boxed{ }"):
        refused = run(app, ["grade", r"\boxed{4}", "--answer", empty])
        assert isinstance(refused.exception, UserError) and not refused.stdout
    told = run(app, ["grade", r"\boxed{4}", "--answer", "5", "--explain"]).stdout
    assert "the number 4, not 5" in told
