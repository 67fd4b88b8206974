"""Which option a completion chooses: what is stated, and what is stated last."""

from __future__ import annotations

import time
from string import ascii_uppercase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opsd.grade.choice import ChoiceVerifier, chosen, options_of
from opsd.grade.verifier import MathVerifier
from opsd.types import Problem

COLOURS = ["dark red", "blue", r"\frac{1}{2}", "3.2 eV"]
FORMS = [
    r"\boxed{%s}",
    r"\boxed{(%s)}",
    r"\boxed{\text{%s}}",
    r"$\boxed{\mathrm{%s}.}$",
    r"\boxed{Option %s}",
    "The answer is %s.",
    "So the correct answer is: (%s)",
    "**Answer:** %s",
    "**Final answer**: **(%s)**",
    "the correct option is %s because it is",
    "(%s)",
    "%s.",
    "**%s**",
    "Answer: %s",
]

words = st.lists(st.sampled_from(["so", "it", "is", "not", "A", "B", "(C)", "or", "d", "4", "$"]))
letters = st.sampled_from("ABCD")


@given(words, st.sampled_from(FORMS), letters)
def test_what_is_stated_last_decides(said: list[str], form: str, letter: str):
    text = f"Let me see. {' '.join(said)}\n\\boxed{{A}}\n\nAnswer: B\n{form % letter}"
    assert chosen(text, COLOURS) == letter


@given(st.text(alphabet="AaBbD .,:;()*$\\{}\nansweroptibxd", max_size=200), st.integers(2, 26))
def test_whatever_is_written_an_option_or_nothing_is_chosen(text: str, n: int):
    assert chosen(text, list(map(str, range(n)))) in {None, *ascii_uppercase[:n]}


@given(words)
def test_letters_in_running_text_choose_nothing(said: list[str]):
    assert chosen(" ".join(["Option B seems wrong,", *said, "and so on."]), COLOURS) is None


@given(st.sampled_from(FORMS), letters, letters)
def test_the_verifier_knows_the_right_letter(form: str, letter: str, right: str):
    problem = Problem("?", answer=right, metadata={"choices": tuple(COLOURS)})
    verdict = ChoiceVerifier()(problem, f"Hm.\n{form % letter}")
    assert verdict.correct is (letter == right) and verdict.format_ok
    assert verdict.reward == float(letter == right)


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        (r"\boxed{b}", "B"),
        (r"\boxed{B. blue}", "B"),
        (r"\boxed{\text{Dark red}}", "A"),
        (r"\boxed{\frac{1}{2}}", "C"),
        (r"\boxed{$3.2$ eV}", None),
        (r"\boxed{D: 3.2 eV}", "D"),
        ("B. blue", "B"),
        ("Option B", "B"),
        (r"\boxed{B) blue}", "B"),
        (r"\boxed{\textbf{(B)}\ \text{blue}}", "B"),
        (r"\boxed{(B) dark red}", None),
        # Not an option, or not one.
        (r"\boxed{E}", None),
        (r"\boxed{B. dark red}", None),
        (r"\boxed{A, B}", None),
        (r"\boxed{B} but then \boxed{7}", None),
        (r"\boxed{A} The answer is E.", None),
        ("The answer is B or C.", None),
        ("The answer is (B) or (C).", None),
        ("The answer is A/B.", None),
        ("The answer is a", None),
        ("The answer is A dog.", None),
        ("The answer is not B.", None),
        ("(B) is wrong", None),
        ("blue", None),
        ("", None),
        # An unfinished box is none.
        (r"\boxed{B} or is it \boxed{C", "B"),
        (r"The answer is B, so \boxed{C", "B"),
        (r"\boxed{A} Wait. The answer is B.", "B"),
        ("Answer: B\n\nwhich is what was asked.", "B"),
    ],
)
def test_only_what_is_stated_counts(text: str, letter: str | None):
    assert chosen(text, COLOURS) == letter


def test_the_letter_goes_before_a_text_that_is_a_letter():
    assert chosen(r"\boxed{B}", ["B", "A"]) == "B"
    assert chosen(r"\boxed{A. thaliana}", ["E. coli", "A. thaliana"]) == "B"
    assert chosen(r"\boxed{same}", ["same", "Same", "other"]) is None


def test_what_was_thought_does_not_count():
    problem = Problem("?", answer="B", metadata={"choices": ("red", "blue")})
    judge = ChoiceVerifier(after_think=True)
    assert judge(problem, r"<think>\boxed{A}</think> \boxed{B}").correct
    assert not judge(problem, r"<think>\boxed{B}").format_ok


def test_a_problem_without_options_is_not_judged():
    assert options_of(Problem("2 + 2", answer="4")) == ()
    for answer in ("4", None, "C"):
        with pytest.raises(ValueError, match="not a multiple-choice"):
            ChoiceVerifier()(Problem("?", answer=answer, metadata={"choices": ("x", "y")}), "A")


@pytest.mark.parametrize("bomb", ["answer: ", "answer ", "\\boxed{", "(((", "Answer:\n**", "A "])
def test_long_texts_take_linear_time(bomb: str):
    start = time.process_time()
    chosen(bomb * 20_000, COLOURS)
    assert time.process_time() - start < 20


def test_rewards_judge_a_choice_as_evaluation_does():
    """One verifier for both: of multiple choice its letters are read, of other problems boxes."""
    choice = Problem("?", answer="B", metadata={"choices": ("red", "blue")})
    other = Problem("2 + 2 = ?", answer="4")
    attempts = [(choice, "The answer is (B)."), (choice, r"\boxed{A}"), (other, r"\boxed{4}")]
    verdicts = MathVerifier().many([*attempts, (Problem("?"), "no answer is known")])
    assert [v and v.correct for v in verdicts] == [True, False, True, None]
    assert verdicts[0] == ChoiceVerifier()(choice, "The answer is (B).")
