"""Multiple choice: rows in the field's forms as one question with lettered options."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opsd.data.choices import Choices
from opsd.data.filters import DataReport
from opsd.data.problems import Data, load_problems
from opsd.prompts.prompt import fill
from opsd.types import CHOICES, Problem, UserError

LETTERS = ("A", "B", "C", "D")
OF_FOUR = Choices(options=("Correct Answer", *(f"Incorrect Answer {i}" for i in (1, 2, 3))))
KEYED = Choices(options="choices", key="answerKey")

texts = st.lists(st.text("abcdefgh", min_size=1), min_size=4, max_size=4, unique=True)


def four(right: str, *wrong: str) -> dict[str, Any]:
    return dict(zip(OF_FOUR.options, (right, *wrong), strict=True))


def posed(choices: Choices, row: dict[str, Any], question: str = "Which?") -> Problem:
    assert choices.fault(row, "row 1") is None
    return choices.posed(Problem(question), row, "row 1")


@given(texts, st.text(min_size=1).filter(str.strip))
def test_the_letter_is_that_of_the_right_option_wherever_it_is_put(options: list[str], text: str):
    row = four(*options)
    problem = posed(OF_FOUR, row, text)
    assert sorted(problem.metadata[CHOICES]) == sorted(options)
    assert problem.metadata[CHOICES][LETTERS.index(str(problem.answer))] == options[0]
    assert f"{problem.answer}. {options[0]}\n" in problem.text + "\n"
    assert posed(OF_FOUR, row, text) == problem


@given(texts, st.permutations([1, 2, 3]))
def test_the_order_of_the_wrong_ones_in_the_file_does_not_count(
    options: list[str], order: list[int]
):
    same = posed(OF_FOUR, four(options[0], *(options[i] for i in order)))
    assert same == posed(OF_FOUR, four(*options))


def test_the_right_letter_is_each_one_about_equally_often():
    found = Counter(
        posed(OF_FOUR, four("yes", "no", "so", "or"), f"{n}?").answer for n in range(400)
    )
    assert set(found) == set(LETTERS) and min(found.values()) > 70


@pytest.mark.parametrize(
    ("row", "letter"),
    [
        ({"choices": {"text": ["x", "y", "z"], "label": ["A", "B", "C"]}, "answerKey": "B"}, "B"),
        ({"choices": {"text": ["x", "y"], "label": ["1", "2"]}, "answerKey": "2"}, "B"),
        ({"choices": ["x", "y", "z"], "answerKey": 2}, "C"),
        ({"choices": ["x", "y", "z"], "answerKey": "z"}, "C"),
        ({"choices": ["x", " y "], "answerKey": "A"}, "A"),
    ],
)
def test_options_keep_the_order_of_the_row_where_it_says_which_is_right(row: dict, letter: str):
    problem = posed(KEYED, row)
    assert problem.answer == letter and problem.metadata[CHOICES][:2] == ("x", "y")
    assert problem.text.startswith("Which?\n\nA. x\nB. y\n")


@pytest.mark.parametrize(
    ("options", "key", "letter"),
    [
        (["1", "2", "3", "4"], 2, "C"),  # of different types: a number, not a text
        (["1", "2", "3", "4"], "2", None),
        ([1, 2, 3, 4], 2, None),
        (["4", "1", "2", "3"], "2", "C"),  # both say the same
        (["x", "y", "z"], "2", "C"),  # as in a CSV file
        (["10", "20", "30"], "20", "B"),
        ([0, 5], "A", "A"),
        ([5, 0, 7], 7, "C"),
        (["x", "y"], True, None),
        (["no", "yes"], 1, "B"),
        (["x", "None"], None, None),
        ({"text": ["x", "y"], "label": [1, 2]}, 1, "A"),  # the row's own label
    ],
)
def test_a_number_is_read_alike_in_every_format_or_not_at_all(
    options: Any, key: Any, letter: str | None
):
    row = {"choices": options, "answerKey": key}
    if letter is None:
        fault = str(KEYED.fault(row, "row 1"))
        assert fault.startswith(("the key may be the number of", "the key matches none of"))
    else:
        assert posed(KEYED, row).answer == letter


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({"choices": ["x"], "answerKey": "A"}, "fewer than two options"),
        ({"choices": ["x", ""], "answerKey": "A"}, "an empty one"),
        ({"choices": None, "answerKey": "A"}, "fewer than two options"),
        ({"choices": ["x", "y"], "answerKey": "C"}, "matches none"),
        ({"choices": ["x", "y"], "answerKey": None}, "matches none"),
        ({"choices": {"text": ["x", "y"], "label": ["A"]}, "answerKey": "A"}, "one label"),
    ],
)
def test_a_row_without_options_or_a_right_one_is_left_out_and_counted(
    tmp_path: Path, row: dict, fault: str
):
    assert fault in str(KEYED.fault(row, "row 1"))
    good = {"question": "?", "choices": ["x", "y"], "answerKey": "A"}
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in (good, {"question": "!", **row})))
    account = DataReport()
    found, _ = load_problems(Data(source=str(path), choices=KEYED), account)
    assert [p.answer for p in found] == ["A"] and fault in account.lines()[0]


def test_a_column_that_is_not_there_is_named():
    with pytest.raises(UserError, match="no column 'answerKey' for 'choices'; columns: choices"):
        KEYED.fault({"choices": ["x", "y"]}, "row 1")


def test_rows_are_kept_by_the_values_of_columns_nested_ones_too(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    rows = [
        {"problem": f"{n}", "answer": "1", "type": kind, "details": {"level": level}}
        for n, (kind, level) in enumerate([("mcq", 3), ("mcq", 1), ("open", 3)])
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    filters = {"only": {"type": ["mcq"], "details.level": [3]}}
    account = DataReport()
    found, _ = load_problems(Data(source=str(path), filters=filters), account)
    assert [p.text for p in found] == ["0"]
    assert account.dropped == {"'details.level' is '1'": 1, "'type' is 'open'": 1}
    with pytest.raises(UserError, match=r"filters\.only: no column 'details\.kind'"):
        load_problems(Data(source=str(path), filters={"only": {"details.kind": ["x"]}}))


def test_a_problem_that_says_how_to_answer_is_not_told_again(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"problem": r"2 + 2? Write \boxed{}.", "answer": "4"}) + "\n")
    (told,), _ = load_problems(Data(source=str(path), instructed=True))
    (plain,), _ = load_problems(Data(source=str(path)))
    assert fill("student", told) == told.text
    assert (
        fill("student", plain)
        == f"{plain.text}\n\nThink step by step and write the final answer in \\boxed{{}}."
    )
