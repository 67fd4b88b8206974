"""Feedback that is shown is about something in the question, and holds no answer."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opsd.authors.anchoring import SHORTEST, anchored, gives_away, named
from opsd.types import CHOICES, Problem

NUMBER = Problem("Amina has 6 boxes with 7 eggs each. How many eggs?", answer="42")
CHOICE = Problem(
    "Which force keeps the Moon in orbit?",
    answer="B",
    metadata={CHOICES: ("friction", "gravity", "the normal force")},
)
WORD = Problem("Which metal is liquid at room temperature?", answer="mercury")
SOUND = "Count the boxes first, and then what each of them holds."


def text(concept: str, feedback: str) -> str:
    return f"CONCEPT: {concept}\nFEEDBACK: {feedback}"


def test_what_is_of_the_form_tied_to_the_question_and_tells_no_answer_is_kept_as_it_is():
    assert anchored(text("boxes", SOUND), NUMBER) == (SOUND, None)
    spread = f"\n CONCEPT:  Eggs each \n\nFEEDBACK:\n{SOUND}\nBe slow."
    assert anchored(spread, NUMBER) == (f"{SOUND} Be slow.", None)


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ("", "form"),
        (SOUND, "form"),
        (f"FEEDBACK: {SOUND}\nCONCEPT: boxes", "form"),
        (f"CONCEPT:\nFEEDBACK: {SOUND}", "form"),
        (text("photosynthesis", SOUND), "concept"),
        (text("...", SOUND), "concept"),
        (text("boxes of heavy red bricks", SOUND), "concept"),
        (text("boxes", "Be slow."), "short"),
        (text("boxes", "You get 42 when you multiply both of the numbers."), "short"),
        (text("boxes", "Reckon 6 x 7 and put it into \\boxed{} at the end."), "short"),
        (text("boxes", "Forty\n-two eggs is what you should have found."), "short"),
    ],
)
def test_what_is_not_is_rejected_for_its_reason(given: str, fault: str):
    assert anchored(given, NUMBER) == (None, fault)


@pytest.mark.parametrize(
    "leak",
    [
        "The answer is not 12.",
        "Your answer: 12 is off.",
        "It makes 42 in all.",
        "It makes 42.0 eggs.",
        "So forty-two of them!",
        "6 x 7=42.",
        "See \\boxed{12}.",
        "#### 12.",
    ],
)
def test_a_sentence_that_gives_the_answer_away_is_left_out_and_the_others_stay(leak: str):
    feedback, fault = anchored(text("boxes", f"{SOUND} {leak} {SOUND}"), NUMBER)
    assert (feedback, fault) == (f"{SOUND} {SOUND}", None)


@pytest.mark.parametrize(
    ("problem", "leaks", "sound"),
    [
        (NUMBER, ["42", "+42", "42kg", "42.00", "forty-two"], ["420", "1.42", "4 2", "forty"]),
        (
            CHOICE,
            ["B", "(B)", "Gravity does it", "option B."],
            ["Be slow", "b", "A friction", "grave"],
        ),
        (WORD, ["Mercury!", "liquid mercury is"], ["mercurial", "iron"]),
        (Problem("?"), ["the answer is x"], ["anything"]),
    ],
)
def test_answers_are_known_as_numbers_as_options_and_as_words(problem, leaks, sound):
    assert all(gives_away(x, problem) for x in leaks)
    assert not any(gives_away(x, problem) for x in sound)


@given(st.text(), st.text(alphabet="4 2.\n-fortywB(),!=x", max_size=80))
def test_no_accepted_feedback_holds_the_answer_or_is_about_something_else(concept, feedback):
    kept, fault = anchored(text(concept, feedback), NUMBER)
    assert (kept is None) == (fault is not None)
    if kept is not None:
        assert len(kept) >= SHORTEST and named(concept.splitlines()[0], NUMBER.text)
        assert not re.search(r"(?<![\d.,])42(?![\d]|[.,/]\d)", kept)
