"""Suites as files: the shipped ones are whole and agree with the recipes; one's own is checked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from opsd.languages.registry import codes
from opsd.recipe import schema as recipes
from opsd.recipe.files import shipped as shipped_recipes
from opsd.suites.files import load_suite, parse
from opsd.suites.loading import SUITES, own, parts, read, suite
from opsd.types import UserError

MINE: dict[str, Any] = {
    "source": "held_out_{language}.jsonl",
    "languages": ["Swahili", "yor"],
    "aside": ["yor"],
    "protocol": {"where": "ours", "samples": 8, "budgets": [512, 1024]},
    "published": [{"where": "T", "metric": "avg@8", "values": {"m": {"base": 1.5}}}],
}


def written(folder: Path, content: Any, name: str = "mine.yaml") -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), "utf-8")
    return path


@pytest.mark.parametrize("name", SUITES)
def test_a_shipped_suite_says_what_it_is(name: str):
    one = SUITES[name]
    assert one.about and one.source and one.files and one.languages
    assert set(one.languages) <= set(codes())
    assert one.size or name.startswith("sciknoweval")
    for overlap in one.overlaps:
        assert bool(overlap.source) != bool(overlap.suite) and overlap.what.endswith(".")
        assert not overlap.suite or overlap.suite in SUITES
    assert all("arXiv" in table.where or "README" in table.where for table in one.published)
    assert len({tuple(n.items()) for n in one.printed()}) == len(list(one.printed()))


def test_a_suite_has_every_number_that_recipes_print_of_it():
    keys = ("suite", "metric", "value", "language", "split", "budget")
    known = {
        tuple(number[key] for key in keys) for one in SUITES.values() for number in one.printed()
    }
    printed = {
        tuple(number.model_dump()[key] for key in keys)
        for name in shipped_recipes()
        for number in recipes.load(name).published
        if number.suite in SUITES
    }
    assert printed <= known and len(printed) > 60


def test_polymath_counts_a_level_twice_the_one_below():
    assert SUITES["polymath"].splits == {"low": 1, "medium": 2, "high": 4, "top": 8}
    assert len(SUITES["polymath"].languages) == 18 and SUITES["polymath"].problems == 500


def test_a_file_of_ones_own_is_a_suite(tmp_path: Path):
    mine = load_suite(written(tmp_path, MINE))
    assert (mine.name, mine.languages, mine.aside) == ("mine", ("swa", "yor"), ("yor",))
    assert mine.source == str(tmp_path / "held_out_{language}.jsonl")
    assert mine.protocol is not None and mine.protocol.budgets == (512, 1024)
    assert [n["value"] for n in mine.printed()] == [1.5]
    for code in ("swa", "yor"):
        (tmp_path / f"held_out_{code}.jsonl").write_text('{"problem": "2?", "answer": "2"}\n')
    found = read(suite(str(tmp_path / "mine.yaml")))
    assert [(p.text, p.language) for p in found] == [("2?", "swa"), ("2?", "yor")]
    assert [p.language for p in read(mine, ["sw"])] == ["swa"]


def test_a_suite_of_ones_own_has_splits_choices_and_spellings(tmp_path: Path):
    content = {
        "source": "{language}-{split}.jsonl",
        "languages": ["swa"],
        "spelled": {"swa": "sw"},
        "splits": {"easy": 1, "hard": 3},
        "columns": {"prompt": "question"},
        "choices": {"options": "options", "key": "right", "ask": "Herufi gani?"},
    }
    for split in ("easy", "hard"):
        row = {"question": split, "options": ["x", "y"], "right": 1}
        (tmp_path / f"sw-{split}.jsonl").write_text(json.dumps(row) + "\n")
    mine = suite(str(written(tmp_path, content)))
    found = read(mine)
    assert [(p.answer, p.metadata["split"]) for p in found] == [("B", "easy"), ("B", "hard")]
    assert found[0].text == "easy\n\nA. x\nB. y\n\nHerufi gani?"
    assert [p.metadata["split"] for p in read(parts(mine, ["hard"]))] == ["hard"]
    with pytest.raises(UserError, match="mine has no split 'low'; it has: easy, hard"):
        parts(mine, ["low"])
    with pytest.raises(UserError, match="gsm8k has no split 'low'; it has no splits"):
        parts(SUITES["gsm8k"], ["low"])


def test_rows_may_say_their_languages_themselves(tmp_path: Path):
    rows = '{"problem": "a", "answer": "1", "language": "swa"}\n'
    (tmp_path / "mixed.jsonl").write_text(rows)
    mine = suite(str(written(tmp_path, {"source": "mixed.jsonl"})))
    assert [p.language for p in read(mine)] == ["swa"]


def test_splits_are_filled_in_where_rows_say_their_languages(tmp_path: Path):
    content = {"source": "{language}-{split}.jsonl", "splits": {"easy": 1, "hard": 3}}
    for split in ("easy", "hard"):
        row = {"problem": split, "answer": "1"}
        (tmp_path / f"swa-{split}.jsonl").write_text(json.dumps(row) + "\n")
    mine = suite(str(written(tmp_path, content)))
    found = read(mine, ["swa"])
    assert [(p.text, p.language) for p in found] == [("easy", "swa"), ("hard", "swa")]


def test_a_size_is_of_each_language_also_where_rows_say_it(tmp_path: Path, capsys):
    codes = ("swa", "swa", "zul", "zul", "yor")
    rows = [{"problem": str(n), "answer": "1", "language": c} for n, c in enumerate(codes)]
    (tmp_path / "mixed.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    read(suite(str(written(tmp_path, {"source": "mixed.jsonl", "size": 2}))))
    assert capsys.readouterr().err == "mine yor: 1 problems, but the suite has 2\n"


def test_a_suite_of_ones_own_does_not_pass_for_a_published_one(tmp_path: Path):
    path = written(tmp_path, {"source": "a/b"}, "gsm8k.yaml")
    assert suite(str(path)).name == "own-gsm8k"
    assert own("here/polymath.jsonl").name == "own-polymath"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"langauges": ["swa"]}, r"langauges: unknown key; did you mean 'languages'\?"),
        ({"zzz": 1}, "zzz: unknown key; known: about, aside, choices"),
        ({"source": ""}, "source is missing: name a file, or a dataset on the Hub"),
        ({"protocol": {"where": "x", "sample": 4}}, "protocol.sample: unknown key"),
        ({"protocol": {"where": "x", "samples": 0}}, "protocol.samples: Input should be greater"),
        ({"published": [{"where": "x", "metric": "acc", "values": {}}]}, "published.0.metric: "),
        ({"choices": {"key": "x"}}, "choices.options: Field required"),
        ({"languages": ["Klingon"], "aside": []}, "languages: unknown language 'Klingon'"),
        ({"aside": ["fra"]}, "aside: fra is not among the languages"),
        ({"splits": {"a": 1}}, r"splits: write .split. into source"),
        ({"split": "{split}"}, r"\{split\} stands for one of the splits"),
        ({"splits": {"a": 0}, "split": "{split}"}, "splits.a: Input should be greater than 0"),
        ({"columns": {"promt": "q"}}, "columns: no text is called 'promt'; did you"),
        ({"name": "a b"}, "name: String should match"),
    ],
)
def test_what_is_wrong_with_a_suite_file_is_one_line(tmp_path: Path, change: dict, told: str):
    path = written(tmp_path, {**MINE, **change})
    with pytest.raises(UserError, match=rf"mine\.yaml: {told}") as error:
        load_suite(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("- 1\n", "not a mapping of keys"),
        ("a: [", "not YAML"),
        ("source: a/b\nsource: c/d\n", "the key 'source' occurs twice"),
        ("source: a/b\nconfig: {{language}}\n", "in line 2 a mapping or a list is used as a key"),
        ("? [a, b]\n: 1\n", "in line 1 a mapping or a list"),
    ],
)
def test_a_file_that_is_no_suite_is_refused(tmp_path: Path, text: str, told: str):
    with pytest.raises(UserError, match=told):
        load_suite(written(tmp_path, text))
    with pytest.raises(UserError, match="cannot be read"):
        load_suite(tmp_path / "gone.yaml")
    with pytest.raises(UserError, match="trained_columns: unknown key"):
        parse({"name": "x", "trained_columns": {}}, "x.yaml")
