"""Rows of files become problems; every row that does not is one line that names file and row."""

from __future__ import annotations

import contextlib
import json
import tempfile
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet
from pydantic import ValidationError

from opsd.data.columns import problem
from opsd.data.filters import DataReport, Filters
from opsd.data.problems import Data, as_problems, load_problems, read
from opsd.data.stream import ProblemStream
from opsd.grade import is_correct
from opsd.types import Problem, UserError

ROWS = [
    {"problem": "One\nand, one?", "solution": 'It is "2".\n\\boxed{2}', "answer": "2"},
    {"problem": "Kí ni 1 + 2?", "solution": "\\boxed{3}", "answer": "3"},
]


def quoted(row: dict[str, str], mark: str) -> str:
    return mark.join('"' + text.replace('"', '""') + '"' for text in row.values())


def write(folder: Path, kind: str, rows: list[dict[str, Any]]) -> Path:
    """The rows in one of the formats, written without the package's help."""
    path = folder / f"rows.{kind}"
    if kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    elif kind == "json":
        path.write_text(json.dumps(rows), "utf-8")
    elif kind == "parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        mark = "\t" if kind == "tsv" else ","
        lines = [mark.join(rows[0]), *(quoted(row, mark) for row in rows)]
        path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


def message(data: Data) -> str:
    """The one line that loading ends with."""
    with pytest.raises(UserError) as error:
        load_problems(data)
    text = str(error.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "tsv", "parquet"])
def test_every_format_gives_the_same_problems(tmp_path: Path, kind: str):
    loaded, dev = load_problems(Data(source=str(write(tmp_path, kind, ROWS))))
    assert dev == []
    assert [p.prompt for p in loaded] == [row["problem"] for row in ROWS]
    assert [p.privileged for p in loaded] == [{"solution": row["solution"]} for row in ROWS]
    assert [p.answer for p in loaded] == ["2", "3"]
    assert [p.language for p in loaded] == ["eng", "eng"]


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv"])
def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path, kind: str):
    path = write(tmp_path, kind, ROWS)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert [p.prompt for p in load_problems(Data(source=str(path)))[0]] == [
        r["problem"] for r in ROWS
    ]


def test_blank_lines_of_a_jsonl_file_are_passed_over(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n" + json.dumps(ROWS[0]) + "\n\n" + json.dumps(ROWS[1]))
    assert len(load_problems(Data(source=str(path)))[0]) == 2


@pytest.mark.parametrize("prompt", ["prompt", "problem", "question"])
@pytest.mark.parametrize("answer", ["answer", "Answer", "answer_number"])
@pytest.mark.parametrize("translation", ["translation", "problem_en"])
def test_usual_column_names_are_found(prompt: str, answer: str, translation: str):
    row = {prompt: "P", answer: 7, translation: "T", "solution": "S", "source": "web"}
    made = problem(row, {}, "swa", "here")
    assert (made.prompt, made.answer, made.language) == ("P", "7", "swa")
    assert made.privileged == {"solution": "S", "translation": "T"}


def test_where_several_usual_names_occur_the_first_counts():
    assert problem({"question": "q", "prompt": "p"}, {}, "eng", "").prompt == "p"


def test_a_mapping_wins_over_usual_names_and_brings_texts_of_its_own(tmp_path: Path):
    row = {"problem": "in English", "problem_swa": "kwa Kiswahili", "tip": "think", "lang": "swa"}
    columns = {
        "prompt": "problem_swa",
        "translation": "problem",
        "hint": "tip",
        "language": "lang",
    }
    (made,) = read(Data(source=str(write(tmp_path, "jsonl", [row])), columns=columns))
    assert (made.prompt, made.language) == ("kwa Kiswahili", "swa")
    assert made.privileged == {"translation": "in English", "hint": "think"}


def test_a_gsm8k_row_gives_an_answer_and_a_boxed_solution_without_calculator_marks():
    row = {
        "question": "How much is 3 x 4, and 8 more?",
        "answer": "3 x 4 = <<3*4=12>>12\n12 + 8 = <<12+8=20>>20\n#### 20",
    }
    made = problem(row, {}, "eng", "")
    assert made.answer == "20"
    assert made.privileged == {"solution": "3 x 4 = 12\n12 + 8 = 20\n\\boxed{20}"}


def test_a_solution_of_its_own_is_kept_beside_a_gsm8k_answer():
    row = {"question": "q", "answer": "1 + 1\n#### 2", "solution": "Plainly two."}
    made = problem(row, {}, "eng", "")
    assert (made.answer, made.privileged) == ("2", {"solution": "Plainly two."})


def test_a_conversation_is_kept_with_its_earlier_turns():
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "1 + 1?"},
    ]
    made = problem({"prompt": turns, "answer": "2"}, {}, "eng", "")
    assert made.prompt == tuple(turns)
    assert made.text == "1 + 1?"


@pytest.mark.parametrize(
    "prompt",
    [
        7,
        ["just text"],
        [{"role": "user"}],
        [{"role": "user", "content": None}],
        {"role": "user", "content": "x"},
    ],
)
def test_a_prompt_that_is_neither_text_nor_messages_is_refused(prompt: Any):
    told = "rows, row 3: a prompt must be a text, or a list of messages"
    with pytest.raises(UserError, match=told):
        problem({"prompt": prompt}, {}, "eng", "rows, row 3")


def test_a_conversation_that_ends_with_the_assistant_is_refused():
    turns = [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "2"}]
    with pytest.raises(UserError, match="row 3: a conversation must end with the user's turn"):
        problem({"prompt": turns}, {}, "eng", "row 3")


@pytest.mark.parametrize("empty", ["", "   ", "\n", None, []])
def test_an_empty_prompt_names_its_row(tmp_path: Path, empty: Any):
    path = write(tmp_path, "jsonl", [*ROWS, {"problem": empty, "answer": "1"}])
    told = f"{path}, line 3: the column 'problem' is empty"
    assert message(Data(source=str(path))).startswith(told)


def test_an_empty_cell_is_a_text_that_is_not_there(tmp_path: Path):
    path = write(tmp_path, "csv", [{"problem": "p", "solution": "", "answer": ""}])
    (made,) = load_problems(Data(source=str(path)))[0]
    assert (made.answer, made.privileged) == (None, {})


def test_a_missing_column_names_those_that_are_there(tmp_path: Path):
    path = write(tmp_path, "jsonl", ROWS)
    told = message(Data(source=str(path), columns={"solution": "reasoning"}))
    assert told == (
        f"{path}, line 1: no column 'reasoning' for 'solution'; columns: problem, solution, answer"
    )


def test_without_a_usual_prompt_column_the_mapping_is_asked_for(tmp_path: Path):
    path = write(tmp_path, "csv", [{"text": "p", "label": "1"}])
    told = message(Data(source=str(path)))
    assert told == f"{path}, row 1: no problem; set data.columns.prompt to one of text, label"


def test_a_missing_file_is_named():
    assert message(Data(source="no/such.jsonl")) == "data.source: no file 'no/such.jsonl'"


def test_a_file_of_another_kind_names_the_known_kinds(tmp_path: Path):
    path = tmp_path / "rows.txt"
    path.write_text("x")
    assert "is not one of .jsonl, .json, .csv, .tsv, .parquet" in message(Data(source=str(path)))


@pytest.mark.parametrize(("kind", "text"), [("jsonl", ""), ("json", "[]"), ("csv", "problem\n")])
def test_a_file_without_rows_is_refused(tmp_path: Path, kind: str, text: str):
    path = tmp_path / f"rows.{kind}"
    path.write_text(text)
    assert message(Data(source=str(path))) == f"{path} contains no rows"


@pytest.mark.parametrize(
    ("kind", "text", "told"),
    [
        ("jsonl", '{"problem": "p"}\n{"problem": "p"\n', "line 2: not JSON"),
        ("jsonl", '{"problem": "p"}\n[1]\n', "line 2: not a JSON object"),
        ("json", '[\n{"problem": "p",}\n]', "line 2: not JSON"),
        ("json", '{"data": []}', "a JSON file of problems must be a list of objects"),
        ("csv", "problem,answer\nWhat is 1,000 + 2?,1002\n", "row 1: more cells than the header"),
        ("csv", 'problem\n"never closed\n', "line 2: unexpected end of data"),
        ("csv", "problem\na\nb\0c\n", "line 3: a NUL byte"),
        ("csv", "\0\0\0", "line 1: a NUL byte"),
        ("parquet", "not parquet at all", "rows.parquet: "),
        ("parquet", "", "rows.parquet: "),
        ("jsonl", '\n{"problem": ' + "9" * 5000 + "}", "line 2: a whole number of more than 4,300"),
        ("json", '[{"answer": ' + "9" * 5000 + "}]", "a whole number of more than 4,300 digits"),
        ("jsonl", '{"problem": ' + "[" * 100_000 + "]" * 100_000 + "}", "line 1: lists or objects"),
        ("json", "[" * 100_000 + "]" * 100_000, "nested too deeply"),
        ("jsonl", '{"problem": "\\ud800"}', "line 1: the column 'problem' contains half"),
        ("jsonl", '{"messages": [{"content": "\\ude00"}]}', "half a surrogate pair (\\ude00)"),
        ("json", '[{"problem": "p", "\\ud800": 1}]', "row 1: the column '\\ud800' contains half"),
    ],
)
def test_a_broken_file_is_named_with_the_place(tmp_path: Path, kind: str, text: str, told: str):
    path = tmp_path / f"rows.{kind}"
    path.write_text(text)
    shown = message(Data(source=str(path)))
    assert str(path) in shown and told in shown


def test_a_damaged_parquet_file_is_named(tmp_path: Path):
    path = write(tmp_path, "parquet", many(500))
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:60] + b"\xff" * 40 + whole[100:]):
        path.write_bytes(damaged)
        told = message(Data(source=str(path)))
        assert told.startswith(f"{path}: ") and "\n" not in told


@pytest.mark.parametrize(
    ("cell", "gold"),
    [
        ('["3", "5"]', "3, 5"),
        ('["7"]', "7"),
        ("[3, 0.5]", "3, 0.5"),
        ("true", "true"),
        ("7.0", "7.0"),
        ('"so <answer> 7 </answer>"', "7"),
        ('"48 / 2 = 24\\n#### 24"', "24"),
        *((empty, None) for empty in ("null", "NaN", "[]", "[null]", '""')),
    ],
)
def test_answers_of_several_types_are_read(tmp_path: Path, cell: str, gold: str | None):
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{{"problem": "p", "answer": {cell}, "solution": NaN, "level": NaN}}')
    (made,) = read(Data(source=str(path)))
    assert made.answer == gold
    assert "nan" not in f"{made.privileged} {made.metadata}".lower()
    assert gold is None or is_correct(rf"\boxed{{{gold}}}", gold)


@pytest.mark.parametrize("cell", ["Infinity", '[["3"], "5"]', '[{"a": 1}]', '["3", null]', "[NaN]"])
def test_what_can_be_no_answer_is_refused_with_its_line_and_column(tmp_path: Path, cell: str):
    path = tmp_path / "rows.jsonl"
    path.write_text(f'\n{{"problem": "p", "jibu": {cell}}}')
    told = message(Data(source=str(path), columns={"answer": "jibu"}))
    assert told.startswith(f"{path}, line 2: the column 'jibu' contains ")
    assert "map data.columns.answer" in told


def test_a_privileged_text_is_no_list_of_lists():
    told = "row 1: the column 'solution' contains a list within a list"
    with pytest.raises(UserError, match=told):
        as_problems([{"problem": "p", "solution": [["a"]]}])


def test_a_problem_is_called_by_its_file_and_line(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    path.write_text('\n{"problem": "p"}\n\n{"problem": "q"}\n')
    assert [p.name for p in read(Data(source=str(path)))] == [f"{path}, line {n}" for n in (2, 4)]
    (stream, _) = load_problems(Data(source=str(path), streaming=True))
    assert isinstance(stream, ProblemStream)
    lines = {f"{path}, line {n}" for n in (2, 4)}
    assert {next(stream.read(seed=seed)).name for seed in range(9)} == lines
    assert as_problems([{"problem": "p"}])[0].name == "row 1"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)
ROW = st.dictionaries(
    st.sampled_from(["problem", "answer", "solution", "messages", "language", "id", "problem_swa"]),
    JSON | st.text(st.characters(), max_size=8),
)


@settings(deadline=None, max_examples=300)
@given(st.lists(ROW, max_size=3))
def test_rows_are_read_or_refused_in_one_line(rows: list[dict[str, Any]]):
    try:
        made = as_problems(json.loads(json.dumps(rows)))
    except UserError as error:
        assert str(error).startswith("row ") and "\n" not in str(error)
    else:
        assert all(p.answer != "" and json.dumps([p.answer, p.text]).encode() for p in made)


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=80), st.sampled_from(["jsonl", "json", "csv", "tsv", "parquet"]))
def test_whatever_bytes_a_file_has_it_is_read_or_refused(text: bytes, kind: str):
    with tempfile.NamedTemporaryFile(suffix=f".{kind}") as file:
        Path(file.name).write_bytes(text)
        with contextlib.suppress(UserError):
            read(Data(source=file.name))


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv"])
def test_a_file_in_another_encoding_is_refused(tmp_path: Path, kind: str):
    path = tmp_path / f"rows.{kind}"
    path.write_bytes('[{"problem": "caf\u00e9"}]'.encode("latin-1"))
    assert "not UTF-8" in message(Data(source=str(path)))


def test_an_unknown_language_is_refused_before_anything_is_read():
    assert message(Data(source="no/such.jsonl", language="xxx")).startswith("unknown language")


def many(n: int) -> list[dict[str, str]]:
    return [{"problem": f"{i} + 1?", "answer": str(i + 1)} for i in range(n)]


def test_the_dev_split_is_disjoint_complete_and_independent_of_file_order(tmp_path: Path):
    rows = many(40)
    train, dev = load_problems(Data(source=str(write(tmp_path, "jsonl", rows)), dev=10))
    assert len(dev) == 10
    assert {p.id for p in train}.isdisjoint(p.id for p in dev)
    assert sorted(p.prompt for p in [*train, *dev]) == sorted(row["problem"] for row in rows)
    assert [p.prompt for p in train] == [  # in file order
        row["problem"] for row in rows if row["problem"] in {p.prompt for p in train}
    ]
    _, again = load_problems(Data(source=str(write(tmp_path, "json", rows[::-1])), dev=10))
    assert [p.id for p in again] == [p.id for p in dev]


def test_the_dev_split_may_be_a_share(tmp_path: Path):
    train, dev = load_problems(Data(source=str(write(tmp_path, "jsonl", many(40))), dev=0.25))
    assert (len(train), len(dev)) == (30, 10)


def test_a_limit_cuts_the_training_problems_and_not_the_dev_split(tmp_path: Path):
    path = str(write(tmp_path, "jsonl", many(40)))
    train, dev = load_problems(Data(source=path, dev=10, limit=5))
    whole, same = load_problems(Data(source=path, dev=10))
    assert (train, dev) == (whole[:5], same)


@pytest.mark.parametrize("name", ["promt", "translaton", "Answer"])
def test_a_misspelt_name_of_a_column_is_refused(name: str):
    with pytest.raises(ValidationError, match="did you mean"):
        Data(source="x.jsonl", columns={name: "q"})
    assert Data(source="x.jsonl", columns={"hint": "q"}).columns == {"hint": "q"}


def test_a_mapped_translated_problem_has_its_english_beside_it(tmp_path: Path):
    rows = [{"problem": "E", "problem_swa": text, "solution": "s"} for text in ("S", "")]
    path = str(write(tmp_path, "jsonl", rows))
    columns = {"prompt": "problem_{language}"}
    data = Data(source=path, language="swa", columns=columns, filters=Filters(complete=True))
    (one,) = read(data, account := DataReport())
    assert (one.text, one.privileged["translation"]) == ("S", "E")
    assert account.dropped == {"no prompt": 1}
    assert "set filters.complete" in message(Data(source=path, language="swa"))


@pytest.mark.parametrize("column", ["solution", "answer"])
def test_a_mapping_is_no_text(column: str):
    with pytest.raises(UserError, match=f"row 1: the column '{column}' contains a mapping"):
        as_problems([{"problem": "p", "answer": 1, "solution": "s", column: {"a": 1}}])


def test_a_misspelt_file_is_not_looked_for_on_the_hub():
    assert "no file 'problems.josnl'" in message(Data(source="problems.josnl"))


def test_the_account_says_what_became_of_every_row(tmp_path: Path):
    rows = [*many(20), many(20)[3]]
    path, account = str(write(tmp_path, "jsonl", rows)), DataReport()
    train, dev = load_problems(Data(source=path, dev=15, limit=4), account)
    told = account.as_dict()
    assert (told["rows"], told["dev"], told["kept"]) == (21, 15, {"eng": 4})
    dropped = {drop["reason"]: drop["count"] for drop in told["dropped"]}
    assert dropped.get("the same as a dev problem", 0) + dropped["beyond data.limit"] == 2
    assert len(train) + len(dev) + sum(dropped.values()) == 21
    load_problems(Data(source=str(write(tmp_path, "json", rows)), dev=15), again := DataReport())
    load_problems(Data(source=path, dev=15), whole := DataReport())
    assert again.digest == whole.digest != account.digest
    load_problems(
        Data(source=str(write(tmp_path, "json", rows[::-1])), dev=15), turned := DataReport()
    )
    assert turned.digest != whole.digest


def test_a_problem_that_occurs_with_two_solutions_is_not_in_both_splits(tmp_path: Path):
    rows = [{**row, "solution": text} for row in many(20) for text in ("first", "second")]
    train, dev = load_problems(Data(source=str(write(tmp_path, "jsonl", rows)), dev=8))
    assert {p.prompt for p in train}.isdisjoint(p.prompt for p in dev)
    assert (len(train), len(dev)) == (24, 8)


@pytest.mark.parametrize("dev", [4, 5, 1.0e3])
def test_a_dev_split_that_leaves_nothing_to_train_on_is_refused(tmp_path: Path, dev: float):
    told = message(Data(source=str(write(tmp_path, "jsonl", many(4))), dev=dev))
    assert told == f"data.dev takes {int(dev)} of 4 problems: none is left to train"


def test_a_dev_split_of_repeated_rows_that_leaves_nothing_is_refused(tmp_path: Path):
    rows = [many(2)[0]] * 3 + [many(2)[1]]
    assert "none is left" in message(Data(source=str(write(tmp_path, "jsonl", rows)), dev=2))


def test_the_built_in_world_has_a_dev_split_by_number_and_by_share():
    train, dev = load_problems(Data(source="miniature", language="swa", limit=40, dev=0.1))
    assert (len(train), len(dev)) == (40, 4)
    assert load_problems(Data(source="miniature", language="swa", limit=40, dev=4)) == (train, dev)


PICTURED = [
    {"image": "cat.png"},
    {"images": [{"bytes": "..."}]},
    {"Video": "cat.mp4"},
    {"problem": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "?"}]}]},
]


@pytest.mark.parametrize("more", PICTURED)
def test_a_row_with_a_picture_is_refused(more, tmp_path):
    rows = [{"problem": "1 + 1?", "answer": "2"}, {"problem": "2 + 2?", "answer": "4", **more}]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match=r"line 2: the column '.*' contains a picture or a sound"):
        read(Data(source=str(file)))


def test_text_rows_of_a_vision_language_set_are_read(tmp_path):
    said = [{"type": "text", "text": "1 + 1"}, {"type": "text", "text": "= ?"}]
    row = {"problem": [{"role": "user", "content": said}], "answer": "2", "image": None}
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(row) + "\n")
    (made,) = read(Data(source=str(file)))
    assert [(turn["role"], turn["content"]) for turn in made.prompt] == [("user", "1 + 1\n\n= ?")]


def test_ids_are_hashes_of_the_content():
    one = Problem("p", answer="1", privileged={"solution": "s", "translation": "t"})
    assert one.id == Problem("p", "1", "eng", {"translation": "t", "solution": "s"}).id
    assert one.id == Problem("p", "1", "eng", one.privileged, metadata={"row": 5}).id
    others = [
        Problem("q", "1", "eng", one.privileged),
        Problem("p", "2", "eng", one.privileged),
        Problem("p", "1", "swa", one.privileged),
        Problem("p", "1", "eng", {"solution": "s"}),
        Problem(({"role": "user", "content": "p"},), "1", "eng", one.privileged),
    ]
    assert len({one.id, *(p.id for p in others)}) == 6
    assert len(one.id) == 16 and int(one.id, 16) >= 0


def test_rows_of_any_sequence_become_problems_and_problems_stay():
    row = {"prompt": "1 + 1?", "privileged_context": "It is 2.", "answer": 2, "language": "swa"}
    ready = Problem("2 + 2?")
    made, kept = as_problems([row, ready])
    assert kept is ready
    assert (made.text, made.answer, made.language) == ("1 + 1?", "2", "swa")
    assert made.privileged == {"solution": "It is 2."}
    with pytest.raises(UserError, match="row 1: no problem"):
        as_problems([{"text": "1 + 1?"}])


@pytest.mark.parametrize(
    ("rows", "asked", "told"),
    [
        ([{"problem": "E", "problem_yor": "Y"}], "swa", "line 1: no problem in swa"),
        ([{"problem": "E", "problem_yor": "Y"}], ("yor", "swa"), "no problem in swa"),
        ([{"problem": "E"}], ("yor", "swa"), "line 1: no problem in yor"),
        (
            [{"problem": "E", "problem_swa": "S"}, {"problem": "E"}],
            "swa",
            "line 2: no column 'problem_swa', which other rows have",
        ),
        (
            [{"problem": "E"}, {"problem": "E", "problem_swa": "S"}],
            "swa",
            "line 2: a column 'problem_swa', which the rows before it do not have",
        ),
        (
            [{"problem": "S", "language": "swa"}, {"problem": "E"}],
            None,
            "line 2: no column 'language', which other rows have",
        ),
        ([{"problem": "S", "translation": "E"}], None, "in which language is the problem?"),
        ([{"problem_translated": "S", "problem_en": "E"}], None, "There is 'problem_en'"),
        ([{"problem_translated": "S", "translation": "E"}], None, "or set data.language"),
        ([{"problem": "S", "language": " "}], "swa", "line 1: the column 'language' is empty"),
        ([{"problem": "S", "language": None}], None, "line 1: the column 'language' is empty"),
        ([{"problem": "S", "language": "xx-none"}], None, "line 1: unknown language"),
    ],
)
def test_a_problem_in_a_language_that_nobody_named_is_refused(tmp_path, rows, asked, told):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"answer": 1, **row}) + "\n" for row in rows))
    assert told in message(Data(source=str(file), language=asked))


def test_rows_in_other_languages_are_counted(tmp_path):
    file = tmp_path / "rows.jsonl"
    tongues = ("swa", "xx-none", "yor", "Swahili")
    file.write_text("".join(json.dumps({"problem": t, "language": t}) + "\n" for t in tongues))
    account = DataReport()
    loaded = read(Data(source=str(file), language="swa"), account)
    assert [p.text for p in loaded] == ["swa", "Swahili"]
    assert account.dropped == {"in another language": 1, "in 'xx-none', an unknown language": 1}


def test_english_beside_translations_is_learned_from_the_problem_column(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"problem": "E", "problem_swa": "S", "answer": 1}))
    loaded = read(Data(source=str(file), language=("eng", "swa")))
    assert [(p.text, p.language) for p in loaded] == [("E", "eng"), ("S", "swa")]
    assert [p.privileged for p in loaded] == [{}, {"translation": "E"}]


def test_a_mapped_translation_asks_for_the_language_too(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"swali": "S", "english": "E", "answer": 1}))
    columns = {"prompt": "swali", "translation": "english"}
    assert "There is 'english'" in message(Data(source=str(file), columns=columns))
    (one,) = read(Data(source=str(file), columns=columns, language="swa"))
    assert (one.text, one.privileged) == ("S", {"translation": "E"})


def test_files_per_language_may_differ_in_their_columns(tmp_path):
    swa, yor = {"problem": "S", "language": "swa"}, {"problem": "Y"}
    (tmp_path / "p_swa.jsonl").write_text(json.dumps(swa))
    (tmp_path / "p_yor.jsonl").write_text(json.dumps(yor))
    both = read(Data(source=str(tmp_path / "p_{language}.jsonl"), language=("swa", "yor")))
    assert [(p.text, p.language) for p in both] == [("S", "swa"), ("Y", "yor")]


@pytest.mark.parametrize("end", ["20", "1 000", "5 apples", "$-5", "€20", "-3.5%"])
def test_whatever_number_ends_a_gsm8k_solution_is_boxed(end: str):
    made = as_problems([{"question": "q", "answer": f"3 + 4 = <<3+4=7>>7\n#### {end}"}])[0]
    assert made.privileged["solution"] == f"3 + 4 = 7\n\\boxed{{{end}}}"
    assert made.answer == end


def test_a_heading_is_no_answer():
    row = {"problem": "p", "answer": "7", "solution": "It is 7.\n#### In closing"}
    assert as_problems([row])[0].privileged["solution"] == row["solution"]


def test_worked_examples_come_before_every_problem_behind_a_system_message(tmp_path: Path):
    rows = [
        {"problem": "2 + 2?", "answer": "4"},
        {
            "prompt": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "3 + 3?"},
            ],
            "answer": "6",
        },
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    shown = [{"problem": "1 + 1?", "solution": r"\boxed{2}"}]
    plain, behind = (read(Data(source=str(file), examples=e)) for e in ((), shown))
    said = [[(turn["role"], turn["content"]) for turn in p.prompt] for p in behind]
    example = [("user", "1 + 1?"), ("assistant", r"\boxed{2}")]
    assert said == [
        [*example, ("user", "2 + 2?")],
        [("system", "Be brief."), *example, ("user", "3 + 3?")],
    ]
    assert [p.text for p in plain] == [p.text for p in behind]
    assert [p.id for p in plain] == [p.id for p in behind]
    # The built-in world's problems, those for dev as well.
    for made in load_problems(Data(source="miniature", limit=2, dev=2, examples=shown)):
        assert len(made) == 2 and all(p.prompt[0]["content"] == "1 + 1?" for p in made)
