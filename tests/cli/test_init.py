"""`opsd init`: from answers and a file's columns to a recipe that can be run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from opsd.cli.init import init
from opsd.data.problems import read
from opsd.recipe.schema import load
from opsd.types import UserError

OWN = {
    "task": "Kí ni 17 + 25?",
    "english": "What is 17 + 25?",
    "rationale": r"17 + 25 = 42, so \boxed{42}",
    "final_answer": "42",
}


def written(folder: Path, row: dict[str, Any], count: int = 60) -> str:
    path = folder / "mine.jsonl"
    made = [{**row, next(iter(row)): f"{next(iter(row.values()))} ({i})"} for i in range(count)]
    path.write_text("".join(json.dumps(one) + "\n" for one in made))
    return str(path)


def defaults(question: str, given: str | None, default: str) -> str:
    return default if given is None else given


def start(folder: Path, columns: dict[str, str] | None = None, ask: Any = defaults, **given: Any):
    names = ("model", "data", "language", "method")
    output = folder / "made.yaml"
    init(output, *(given.get(name) for name in names), columns or {}, ask)
    return load(str(output))


def test_columns_of_any_name_become_a_recipe_that_reads_them(tmp_path: Path):
    made = start(tmp_path, data=written(tmp_path, OWN), language="yor")
    assert (made.model.name, made.method.name) == ("Qwen/Qwen3-1.7B", "copsd")
    assert made.model.lora is not None and made.data.dev == 6
    assert made.data.columns == {
        "prompt": "task",
        "answer": "final_answer",
        "solution": "rationale",
        "translation": "english",
    }
    first = read(made.data)[0]
    assert (first.text, first.answer, first.language) == ("Kí ni 17 + 25? (0)", "42", "yor")
    assert first.privileged["translation"] == "What is 17 + 25?"


def test_usual_columns_need_no_mapping_and_rows_may_say_their_language(tmp_path: Path):
    row = {"question": "1 + 1?", "answer": "1 + 1 = 2\n#### 2", "language": "eng"}
    made = start(tmp_path, data=written(tmp_path, row), model="miniature")
    assert made.data.columns == {} and made.data.language is None
    assert made.method.name == "opsd" and made.model.lora is None
    assert read(made.data)[0].privileged["solution"].endswith(r"\boxed{2}")


def test_answers_alone_are_enough_for_rewards(tmp_path: Path):
    made = start(tmp_path, data=written(tmp_path, {"prompt": "1 + 1?", "answer": "2"}))
    assert made.method.name == "grpo"


def test_what_was_read_as_what_is_said_and_that_there_are_no_answers(tmp_path: Path, capsys: Any):
    row = {"question": "1 + 1?", "reasoning": "It is two.", "final": "2"}
    made = start(tmp_path, data=written(tmp_path, row))
    assert made.data.columns["answer"] == "final"
    said = capsys.readouterr().out
    assert "prompt from 'question'" in said and "answer from 'final'" in said
    assert "no answers" not in said
    (tmp_path / "made.yaml").unlink()
    start(tmp_path, data=written(tmp_path, {"question": "1 + 1?", "reasoning": "It is two."}))
    assert "note: no answers, so nothing is graded" in capsys.readouterr().out


def test_who_is_asked_decides(tmp_path: Path):
    asked: list[str] = []
    said = {"Model": "miniature", "Language": "swa", "Column with the translation": "-"}

    def ask(question: str, given: str | None, default: str) -> str:
        asked.append(question)
        told = next((text for start, text in said.items() if question.startswith(start)), None)
        return told or given or default

    made = start(tmp_path, ask=ask, data=written(tmp_path, OWN))
    assert "translation" not in made.data.columns and made.method.name == "opsd"
    assert made.data.language == "swa" and made.model.name == "miniature"
    assert any("Column with the answer (task, english" in question for question in asked)


def test_a_dataset_of_the_hub_is_not_looked_at(tmp_path: Path):
    made = start(tmp_path, data="owner/name", language="swa,yor", columns={"prompt": "ask"})
    assert made.data.columns == {"prompt": "ask"} and made.data.language == ("swa", "yor")
    assert (made.method.name, made.data.dev) == ("copsd", 50)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, "no data given: add --data, as in opsd init --data problems.jsonl"),
        ({"data": "none.jsonl"}, "no file 'none.jsonl'"),
        ({"data": "miniature", "language": "swahil"}, "did you mean swa (Swahili)?"),
        ({"data": "miniature", "method": "copds"}, "did you mean 'copsd'?"),
        ({"data": "miniature", "model": "miniatur"}, "did you mean 'miniature'?"),
    ],
)
def test_what_there_is_not_is_refused_and_nothing_written(tmp_path: Path, given: Any, told: str):
    with pytest.raises(UserError) as refused:
        start(tmp_path, **given)
    assert told in str(refused.value)
    assert not (tmp_path / "made.yaml").exists()


def test_no_problem_among_the_columns_and_a_recipe_that_is_there_are_refused(tmp_path: Path):
    with pytest.raises(UserError, match="no column with the problem"):
        start(tmp_path, data=written(tmp_path, {"thing": "x", "answer": "2"}))
    start(tmp_path, data="miniature")
    before = (tmp_path / "made.yaml").read_text()
    with pytest.raises(UserError, match="already exists"):
        start(tmp_path, data="miniature")
    assert (tmp_path / "made.yaml").read_text() == before
