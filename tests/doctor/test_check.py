"""Every kind of fault is found where it was planted, and none in a clean set."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from tests.arrange import command

from opsd.data.problems import Data
from opsd.doctor.check import check
from opsd.doctor.overlap import at_hand, overlaps
from opsd.doctor.page import write_page
from opsd.doctor.prompts import check_recipe
from opsd.miniature.world import problems as built_in
from opsd.recipe import schema as recipes
from opsd.types import Problem, UserError

Row = dict[str, Any]

LONG = (
    "A merchant buys 12 crates of oranges for 4 coins each, and sells every crate for 7 coins on"
    " the market of the next town. How many coins has she gained in the evening?"
)
GERMAN = (
    "Eine Bäuerin hat 12 Körbe mit je 9 Äpfeln und verkauft am Vormittag die Hälfte davon auf dem"
    " Markt der nächsten Stadt. Wie viele Äpfel bleiben ihr am Abend noch übrig?"
)


def clean(n: int = 12) -> list[Row]:
    return [
        {"problem": p.text, "solution": p.privileged["solution"], "answer": p.answer}
        for p in built_in("miniature", "train", "eng", n)
    ]


def found(rows: list[Row], folder: Path, **about: Any) -> dict[str, Row]:
    """The findings by what they say."""
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    content = check(Data(source=str(path), **about))
    return {finding["what"]: finding for finding in content["findings"]}


def test_nothing_is_found_in_a_clean_set(tmp_path):
    assert found(clean(), tmp_path) == {}


@pytest.mark.parametrize(
    ("planted", "what", "level", "told"),
    [
        ({"answer": "", "solution": "Some."}, "have no answer", "note", ""),
        ({"answer": "it is seven of them, as she said before"}, "sentences", "error", "seven"),
        ({"solution": "  "}, "have no solution, which others have", "warning", ""),
        ({"solution": r"So \boxed{99999}."}, "reaches another answer", "error", "99999"),
        ({"solution": "She has some left."}, "does not state its answer in a box", "note", "left"),
        ({"solution": "#### 99999"}, "reaches another answer", "error", "99999"),
        ({"problem": GERMAN}, "in another language", "warning", "not English but German"),
    ],
)
def test_a_fault_of_one_row_is_found_in_that_row(planted, what, level, told, tmp_path):
    rows = clean()
    rows[4] |= planted
    (finding,) = [f for text, f in found(rows, tmp_path).items() if what in text]
    assert (finding["level"], finding["rows"], finding["of"]) == (level, 1, 12)
    assert finding["examples"][0]["where"] == "rows.jsonl, line 5"
    assert told in finding["examples"][0]["told"]


@pytest.mark.parametrize("first", ["The answer is {0}.", "{0}", r"\boxed{{{0}}}"])
def test_a_reference_that_says_its_answer_at_once_is_found(first, tmp_path):
    rows = clean()
    rows[0]["solution"] = f"{first.format(rows[0]['answer'])}\n{rows[0]['solution']}"
    finding = found(rows, tmp_path)["have a solution that gives the answer in its first line"]
    assert finding["rows"] == 1


def test_a_step_that_comes_to_the_same_number_is_not_the_answer_said_at_once(tmp_path):
    rows = [{"problem": "2 + 2 - 1 + 1?", "solution": "2 + 2 = 4.\nThen 4 - 1 = 3.\n#### 4"}]
    assert found([{**rows[0], "answer": "4"}, *clean()], tmp_path) == {}


def test_copies_are_found_and_such_as_have_another_answer(tmp_path):
    rows = clean()
    copy = {**rows[2], "problem": rows[2]["problem"].upper().replace(".", " !")}
    kinds = found([*rows, copy], tmp_path)
    assert [*kinds] == ["problems occur more than once"]
    kinds = found([*rows, copy | {"answer": "99999", "solution": "#### 99999"}], tmp_path)
    differ = kinds["copies of a problem have another answer"]
    assert differ["level"] == "error" and differ["rows"] == 1
    assert "line 13" in differ["examples"][0]["where"]
    assert "line 3" in differ["examples"][0]["told"]


@pytest.mark.parametrize(
    ("one", "other"), [("2 - 3", "2 + 3"), ("3.5 cm", "35 cm"), ("x^2", "x 2")]
)
def test_a_sign_or_a_decimal_mark_makes_another_problem(one, other, tmp_path):
    rows = [
        {"problem": f"What is {text}?", "answer": str(i)} for i, text in enumerate((one, other))
    ]
    assert found(rows, tmp_path) == {}


def test_the_same_text_in_two_languages_is_no_copy(tmp_path):
    row = {"problem": "2 + 3 = ?", "solution": "#### 5", "answer": "5"}
    assert found([row | {"language": "eng"}, row | {"language": "swa"}], tmp_path) == {}


def test_problems_of_a_suite_are_found_word_for_word_and_nearly():
    changed = LONG.replace("7 coins", "8 coins").replace("oranges", "lemons")
    other = LONG.replace("merchant", "farmer").upper()
    short = Problem("Find x + 3.", id="short")
    suites = {"one": [Problem(LONG, id="of the suite")], "two": [short]}
    texts = (LONG, other, changed, "Find y + 3.", "FIND x + 3", "Find x - 3.")
    one, two = overlaps([Problem(t, id=t[:9]) for t in texts], suites)
    assert (one.rows, one.of, two.rows) == (2, 6, 1)
    assert "100% of problem of the suite" in one.examples[0]["told"]
    assert overlaps([Problem("Something else, that stands in no suite at all.")], suites) == []


def test_suites_that_are_not_there_are_passed_over_and_damaged_ones_are_not(tmp_path):
    assert at_hand(tmp_path) == {}
    (tmp_path / "gsm8k").mkdir()
    (tmp_path / "gsm8k" / "test.jsonl").write_text('{"question": "2 + 2 = ?", "answ')
    with pytest.raises(UserError, match=r"test\.jsonl"):
        at_hand(tmp_path)


def test_scripts_without_spaces_are_compared_by_characters():
    text = "小明有十二个苹果,他给了妹妹五个,又买了三个,现在他有多少个苹果?"
    (finding,) = overlaps([Problem(text[:-6] + "他有几个?")], {"suite": [Problem(text)]})
    assert finding.rows == 1


def test_rows_that_are_left_out_are_counted_with_their_reason(tmp_path):
    rows = [row | {"ok": i > 2} for i, row in enumerate(clean())]
    kinds = found(rows, tmp_path, filters={"require": ("ok",)})
    assert kinds["are left out: 'ok' is not true"]["rows"] == 3


def test_tokens_are_counted_beside_the_translation():
    content = check(Data(source="miniature", language=("swa", "eng")), "miniature")
    swahili, english = sorted(content["languages"], key=lambda row: row["code"], reverse=True)
    assert (swahili["problems"], english["problems"]) == (600, 600)
    assert 0.5 < swahili["beside_translation"] < 2 and english["beside_translation"] is None
    assert swahili["per_word"] > 1


def test_a_recipe_is_checked_with_its_prompts(tmp_path):
    content = {"model": "miniature", "method": "copsd", "train": {"max_length": 100}}
    content |= {"data": {"source": "miniature", "language": "swa", "limit": 20}}
    content |= {"sampling": {"max_completion_length": 64}}
    made = check_recipe(recipes.parse(content))
    (worst, *_) = made["findings"]
    assert worst["level"] == "error" and "too long" in worst["what"] and worst["rows"] == 20
    assert [row["role"] for row in made["prompts"]] == ["student", "teacher"]


def test_the_command_prints_json_and_writes_a_page(tmp_path, monkeypatch, capsys):
    path, html = tmp_path / "rows.jsonl", tmp_path / "page.html"
    rows = clean()
    rows[1]["solution"] = "<script>x</script> \\boxed{99999}"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert command(monkeypatch, "data", "check", str(path), "--json") == 0
    content = json.loads(capsys.readouterr().out)
    assert content["problems"] == 12 and len(content["findings"]) == 1
    assert command(monkeypatch, "data", "check", str(path)) == 0
    shown = capsys.readouterr().out
    assert "1 of 12 (8.3%)" in shown and "1 error" in shown
    assert command(monkeypatch, "data", "check", str(path), "--html", str(html)) == 0
    assert "<script>" not in html.read_text("utf-8")
    assert html == write_page(content, html)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("nowhere.jsonl",), "nowhere.jsonl"),
        (("rows.jsonl", "--column", "prompt"), "--column prompt"),
        (("rows.jsonl", "--set", "data.limit=3"), "--set changes a recipe"),
        (("copsd", "--limit", "3"), "--limit is for a dataset"),
        (("rows.jsonl", "--column", "promt=problem"), "prompt"),
    ],
)
def test_what_is_asked_wrongly_is_one_line(arguments, told, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in clean()))
    assert command(monkeypatch, "data", "check", *arguments) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert told in line


def test_a_folder_without_suites_and_a_stream_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"no file of any suite \(see `opsd evaluate"):
        check(Data(source="miniature"), folder=tmp_path)
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in clean()))
    with pytest.raises(UserError, match="stream"):
        check(Data(source=str(path), streaming=True))


def real() -> Path:
    folder = os.environ.get("OPSD_DATA")
    if not folder:
        pytest.skip("OPSD_DATA names no folder of benchmark data")
    return Path(folder)


def kinds(path: Path, folder: Path | None = None, **about: Any) -> dict[str, Row]:
    columns = {"prompt": "question"} | about.pop("columns", {})
    content = check(Data(source=str(path), columns=columns, **about), folder=folder)
    return {finding["what"]: finding for finding in content["findings"]}


def test_what_is_known_to_be_wrong_in_afrimgsm_is_found():
    folder = real() / "afrimgsm"
    twi = kinds(folder / "twi" / "test.tsv", language="twi")
    assert "row 201" in twi["copies of a problem have another answer"]["examples"][0]["where"]
    left = twi["are in another language than the row says"]
    assert [e["where"].rpartition(" ")[2] for e in left["examples"]] == ["171", "198", "201"]
    igbo = kinds(folder / "ibo" / "test.tsv", language="ibo")
    assert "row 2" in igbo["are in another language than the row says"]["examples"][0]["where"]


def test_what_gsm8k_shares_with_suites_is_found():
    folder = real()
    solution = {"columns": {"solution": "answer"}}
    test = kinds(folder / "gsm8k" / "test.jsonl", folder, **solution)
    told = "share half of their words, or more, with a problem of"
    assert [test[f"{told} {name}"]["rows"] for name in ("gsm8k", "mgsm")] == [1319, 250]
    train = kinds(folder / "gsm8k" / "train.jsonl", folder, **solution)
    assert train[f"{told} gsm8k"]["rows"] == 2 and f"{told} mgsm" not in train
