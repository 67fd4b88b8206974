"""Rules of the long world that stand in for critics, rubric writers and skills."""

from __future__ import annotations

import re
from random import Random

from opsd.authors.critique import accepted, first_changed
from opsd.miniature.lexicon import long_solution
from opsd.miniature.rules import critic, rubric, skill_bank
from opsd.miniature.world import _stories, problem, problems
from opsd.types import Problem

STORIES = _stories("miniature-long", "train")[:200]
SUM = re.compile(r"(\d+) ([+x-]) (\d+) = (-?\d+)")


def slipped(number: int) -> tuple[Problem, str]:
    """A problem, and a trace of it with slips."""
    story = STORIES[number]
    return (
        problem("miniature-long", "eng", story),
        long_solution(story, "eng", Random(number), reflect=0.3, slip=0.25),
    )


def value(left: str, sign: str, right: str) -> int:
    a, b = int(left), int(right)
    return {"+": a + b, "-": a - b, "x": a * b}[sign]


def test_a_slip_is_a_wrong_sum_that_the_rest_goes_on_from_unless_it_is_checked():
    wrong = right_after_all = 0
    for number in range(len(STORIES)):
        given, text = slipped(number)
        said = [line for line in text.splitlines() if line.startswith("So")]
        sums = [SUM.search(line).groups() for line in said]
        slips = [value(*s[:3]) != int(s[3]) for s in sums]
        checks = [SUM.search(line).groups() for line in text.splitlines() if "check" in line]
        assert all(value(*c[:3]) == int(c[3]) for c in checks)
        answer = re.search(r"boxed\{(-?\d+)\}", text)[1]
        wrong += answer != given.answer
        right_after_all += any(slips) and answer == given.answer
        assert any(slips) or answer == given.answer
    assert 30 < wrong < 120 and right_after_all > 10


def test_the_critic_copies_what_is_right_and_mends_the_first_wrong_step():
    cases = set()
    for number in range(len(STORIES)):
        given, text = slipped(number)
        written = critic(given, text, None)
        cases.add(written[6])
        corrected = accepted(written, text)
        assert corrected is not None
        assert corrected.splitlines()[-1].endswith(f"boxed{{{given.answer}}}.")
        assert (first_changed(text, corrected) is None) == (written[6] == "A")
        for left, sign, right, said in SUM.findall(corrected):
            assert value(left, sign, right) == int(said)
    assert cases == {"A", "D"}
    given, text = problems("miniature-long", "train", "eng", 1)[0], ""
    unfinished = critic(given, given.metadata["trace"].splitlines()[0], False)
    assert unfinished.startswith("CASE: C\n") and unfinished.endswith(f"{{{given.answer}}}.")
    assert critic(given, text, None).startswith("CASE: C")
    assert critic(given, "something else", None).startswith("CASE: D")


def test_a_rubric_tells_what_to_do_and_no_result():
    for story in STORIES:
        told = rubric(story)
        assert told.count("Essential") == len(story.sums)
        assert "=" not in told and "Avoid" in told and "Important" in told
        results = {s.value for s in story.sums} - set(story.numbers)
        assert not results & {int(n) for n in re.findall(r"\d+", told)}


def test_every_story_finds_a_skill_and_a_mistake_of_its_own():
    bank = skill_bank()
    for given in problems("miniature-long", "train", "eng", 100):
        tags = set(given.metadata["tags"])
        for name, items in (("skills", bank.skills), ("mistakes", bank.mistakes)):
            (item,) = [x for x in items if x.text == given.privileged[name]]
            assert tags & set(item.tags)
