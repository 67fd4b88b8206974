"""What a group's own rollouts, or other problems, tell a teacher."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.arrange import problems

from opsd.prompts.contexts import (
    Careless,
    Crosslingual,
    Draw,
    Filtered,
    Hints,
    Majority,
    MultiView,
    OtherProblem,
    OwnPrompt,
    Solution,
)
from opsd.types import Finish, Group, Problem, Rollout, UserError, Verdict

few = settings(max_examples=30, deadline=None, derandomize=True)
(PROBLEM,) = problems(1, "eng")


def rollout(text: str, right: bool | None = None, length: int = 1) -> Rollout:
    verdict = None if right is None else Verdict(float(right), right, True)
    return Rollout((1,), (2,) * length, text, Finish.STOP, verdict=verdict)


def group(*rollouts: Rollout, **more) -> Group:
    return Group(PROBLEM, rollouts, **more)


def attempts(*right: bool) -> Group:
    return group(*(rollout(rf"Try {i}: \boxed{{{i}}}", r) for i, r in enumerate(right)))


def told(views) -> list[str]:
    """The rollouts that views show, by number."""
    return [v.messages[-1]["content"].partition("Try ")[2][:1] for v in views]


@few
@given(
    st.lists(st.booleans(), min_size=2, max_size=7), st.integers(1, 5), st.integers(0, 2**31 - 1)
)
def test_hints_are_never_the_rollout_itself_and_their_scales_are_a_mean(right, wrong, seed):
    made = attempts(*right)
    for i in range(len(right)):
        views = Hints(wrong=wrong)(made, i, Draw(seed=seed))
        others = [r for n, r in enumerate(right) if n != i]
        if all(others) or not any(others):
            assert views is None
            continue
        assert [v.name for v in views] == ["right", *(f"wrong_{k + 1}" for k in range(wrong))]
        shown = [int(x) for x in told(views)]
        assert i not in shown and right[shown[0]] and not any(right[n] for n in shown[1:])
        heard = [n for n, v in zip(shown[1:], views[1:], strict=True) if v.scale > 0]
        assert len(set(heard)) == len(heard) == min(wrong, others.count(False))
        assert sum(v.scale for v in views[1:]) == pytest.approx(1)
        assert Hints(wrong=wrong)(made, i, Draw(seed=seed)) == views


def test_hints_are_drawn_by_the_rollouts_own_seed():
    made = attempts(True, *(False,) * 8)
    drawn = {told(Hints(wrong=1)(made, 1, Draw(seed=seed)))[1] for seed in range(40)}
    assert len(drawn) > 4


def test_hints_of_both_kinds_are_written_alike():
    views = Hints(wrong=2)(attempts(True, False, False), 1)
    texts = {
        v.messages[-1]["content"].replace(f"Try {n}", "").replace(f"{{{n}}}", "")
        for v, n in zip(views, told(views), strict=True)
    }
    assert len(texts) == 1


def test_a_wrong_hint_states_an_answer_and_a_right_one_may_be_the_datasets():
    made = group(rollout("no answer", False), rollout(r"Try 1: \boxed{1}", False))
    assert Hints()(made, 0) is None and Hints(right="dataset")(made, 1) is None
    right, *wrong = Hints(right="dataset", wrong=1)(made, 0)
    assert PROBLEM.privileged["solution"] in right.messages[-1]["content"]
    assert told(wrong) == ["1"]
    bare = replace(made, problem=replace(PROBLEM, privileged={}))
    with pytest.raises(UserError, match="'solution'"):
        Hints(right="dataset")(bare, 0)


def voting(*answers: str | None, lengths=None) -> Group:
    texts = ["nothing" if a is None else rf"Try {i}: \boxed{{{a}}}" for i, a in enumerate(answers)]
    lengths = lengths or [1] * len(answers)
    return group(*(rollout(t, length=n) for t, n in zip(texts, lengths, strict=True)))


def taught(context, made: Group) -> dict[int, list[str]]:
    views = {i: context(made, i) for i in range(len(made.rollouts))}
    return {i: told(v) for i, v in views.items() if v is not None}


def test_a_majoritys_shortest_rollout_is_shown_for_the_longest_that_dissents():
    made = voting("7", "8", "7.0", "9", "7", lengths=[5, 3, 2, 6, 4])
    assert taught(Majority(), made) == {3: ["2"]}
    assert not Majority().needs_reward


@pytest.mark.parametrize(
    ("answers", "threshold", "who"),
    [
        (("7", "7", "7"), 0.5, {}),  # nobody dissents
        (("7", "8", "9"), 0.5, {}),  # no majority
        (("7", "8", "9"), 0.3, {1: ["0"]}),
        (("7", "7", "8", None, None), 0.5, {}),  # those without an answer count among all
        (("7", "7", "7", None, "8"), 0.5, {4: ["0"]}),  # and are not taught
        ((None, None), 0.5, {}),
        (("7", "8"), 0.5, {1: ["0"]}),  # of answers given equally often the first counts
    ],
)
def test_who_is_taught_by_a_majority(answers, threshold, who):
    assert taught(Majority(threshold=threshold), voting(*answers)) == who


def test_a_majority_reads_numbers_as_its_language_writes_them():
    made = replace(voting("2,5", "2.5", "2500"), problem=replace(PROBLEM, language="fra"))
    assert taught(Majority(), made) == {2: ["0"]}


def test_a_careless_reader_is_told_what_was_written_of_the_rollout_or_the_same_as_all():
    own = {"careless": "Skip the carry."}
    made = group(rollout("a"), rollout("b"), notes=(own, {"careless": None}))
    one, other = (Careless()(made, i)[0].messages[-1]["content"] for i in (0, 1))
    assert "Skip the carry." in one and Careless().text in other and Careless().text not in one


@few
@given(st.lists(st.integers(0, 9), min_size=2, max_size=30), st.integers(0, 99))
def test_every_problem_is_dealt_another_one_of_its_language_and_each_once(numbers, seed):
    rows = [
        Problem(f"p{n}", language=("eng", "fra")[n % 2], privileged={"solution": f"s{n}"})
        for n in numbers
    ]
    frequent = {
        code: max(Counter(n for n in numbers if n % 2 == parity).values(), default=0)
        for parity, code in enumerate(("eng", "fra"))
    }
    if any(2 * most > sum(p.language == code for p in rows) for code, most in frequent.items()):
        with pytest.raises(UserError, match="too few other problems"):
            OtherProblem().prepared(rows, seed)
        return
    made = OtherProblem().prepared(rows, seed)
    shown = [p.privileged["other_problem"] for p in made]
    assert Counter(shown) == Counter(p.text for p in rows)
    for before, after in zip(rows, made, strict=True):
        other = after.privileged["other_problem"]
        assert other != after.text and int(other[1:]) % 2 == int(after.text[1:]) % 2
        assert after.privileged["other_solution"] == f"s{other[1:]}"
        assert after.id == before.id
        assert after.privileged.items() >= before.privileged.items()
    assert OtherProblem().prepared(rows, seed) == made


def test_the_other_problem_is_read_before_the_problem_and_never_its_own_solution():
    made = OtherProblem().prepared(problems(6, "eng"), 0)
    (view,) = OtherProblem()(Group(made[0], ()), 0)
    text = view.messages[-1]["content"]
    example, own = made[0].privileged["other_problem"], made[0].text
    assert text.index(example) < text.index(own)
    assert made[0].privileged["solution"] not in text


def test_contexts_that_hold_others_prepare_what_those_need():
    rows = problems(6, "eng")
    for context in (
        MultiView((Solution(), OtherProblem())),
        Filtered(OtherProblem(), "wrong"),
    ):
        assert all("other_problem" in p.privileged for p in context.prepared(rows, 0))
    assert Solution().prepared(rows, 0) is rows


def test_what_cannot_be_dealt_is_said_in_a_line():
    bare = [Problem(f"{i}") for i in range(4)]
    with pytest.raises(UserError, match="has no text 'solution'"):
        OtherProblem().prepared(bare, 0)
    with pytest.raises(UserError, match=r"leave data\.streaming out"):
        OtherProblem().prepared(iter(bare), 0)


def test_filtered_by_what_is_better_than_the_mean_and_by_what_the_teacher_gets_right():
    mixed, even = attempts(True, False, False), attempts(True, True)
    better = Filtered(Solution(), "positive_advantage")
    assert [better(mixed, i) is not None for i in range(3)] == [True, False, False]
    assert [better(even, i) for i in range(2)] == [None, None]
    able = Filtered(Solution(), "teacher_right")
    notes = ({"attempt": "I know"}, {"attempt": "I know"}, {"attempt": None})
    noted = replace(mixed, notes=notes)
    assert [able(noted, i) is not None for i in range(3)] == [True, True, False]
    assert able(mixed, 0) is None


FURTHER = replace(
    PROBLEM,
    privileged={
        **PROBLEM.privileged,
        "translation": "in English",
        "translation_fra": "en français",
        "solution_fra": "la solution",
        "translation_deu": "auf Deutsch",
    },
)


def test_crosslingual_shows_further_languages_under_their_names():
    (view,) = Crosslingual(languages=("French",))(Group(FURTHER, ()), 0)
    text = view.messages[-1]["content"]
    assert "(French): en français" in text and "(French):\n" in text and "la solution" in text
    assert "in English" in text and "auf Deutsch" not in text
    (plain,) = Crosslingual()(Group(FURTHER, ()), 0)
    assert "French" not in plain.messages[-1]["content"]
    include = ("problem", "translation")
    (without,) = Crosslingual(languages=("fra", "deu"), include=include)(Group(FURTHER, ()), 0)
    text = without.messages[-1]["content"]
    assert "la solution" not in text and "(German): auf Deutsch" in text


def test_a_further_language_that_a_row_lacks_is_named():
    with pytest.raises(UserError, match=r"no 'solution_deu'.*data\.columns\.solution_deu"):
        Crosslingual(languages=("deu",))(Group(FURTHER, ()), 0)


def test_before_there_are_rollouts_nothing_is_shown_of_them():
    nobody = Group(PROBLEM, ())
    assert Hints()(nobody, 0) is None and Majority()(nobody, 0) is None
    assert Careless()(nobody, 0) is not None
    assert OwnPrompt().prepared([PROBLEM], 0) == [PROBLEM]
