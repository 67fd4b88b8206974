"""Datasets of this field, in their published forms, read without a mapping; filters; streams."""

from __future__ import annotations

import json
import os
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from opsd.data.filters import DataReport, Filters
from opsd.data.problems import Data, as_problems, load_problems, read
from opsd.data.stream import ProblemStream
from opsd.types import UserError

REAL = os.environ.get("OPSD_DATA")
real_data = pytest.mark.skipif(not REAL, reason="OPSD_DATA names no folder of benchmark data")

WIDE = [
    {
        "problem": f"What is {i} + 1?",
        "solution": f"It is \\boxed{{{i + 1}}}.",
        "problem_swa": f"{i} + 1 ni ngapi?",
        "problem_swa_ok": i != 2,
        "problem_yor": f"Kí ni {i} + 1?",
        "Answer": str(i + 1),
    }
    for i in range(6)
]
LONG = [
    {
        "problem": f"What is {i} + 1?",
        "solution": f"It is \\boxed{{{i + 1}}}.",
        "problem_translated": f"{language}: {i} + 1?",
        "language": language,
        "Answer": str(i + 1),
    }
    for language in ("Swahili", "yor")
    for i in range(4)
]


def jsonl(folder: Path, rows: list[dict[str, Any]], name: str = "rows") -> str:
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return str(path)


def message(data: Data) -> str:
    with pytest.raises(UserError) as error:
        load_problems(data)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_openthoughts_in_opsds_form(tmp_path: Path):
    row = {
        "source": "olympiads",
        "problem": "Two?",
        "solution": "Short: \\boxed{2}",
        "messages": [{"role": "user", "content": "Two?"}],
        "conversations": [],
        "correct": True,
        "Question": "Two?",
        "COT_Reason": "long",
        "Answer": "2",
    }
    (made,) = read(Data(source=jsonl(tmp_path, [row])))
    assert (made.prompt, made.answer) == ("Two?", "2")
    assert made.privileged == {"solution": "Short: \\boxed{2}"}
    assert {"source": "olympiads", "row": 0}.items() <= made.metadata.items()


def test_both_copsd_schemas_give_the_same_problem(tmp_path: Path):
    wide = read(Data(source=jsonl(tmp_path, WIDE, "wide"), language="swa"))
    (first, *_) = read(Data(source=jsonl(tmp_path, LONG, "long"), language="swa"))
    assert wide[0].prompt == "0 + 1 ni ngapi?" and first.prompt == "Swahili: 0 + 1?"
    for made in (wide[0], first):
        assert made.answer == "1" and made.language == "swa"
        assert made.privileged == {
            "translation": "What is 0 + 1?",
            "solution": "It is \\boxed{1}.",
        }


@pytest.mark.parametrize("spelling", ["swa", "sw", "Swahili", "SWA"])
def test_a_translated_column_is_found_under_any_name_of_its_language(tmp_path: Path, spelling: str):
    rows = [{"problem": "P", f"problem_{spelling}": "T", "solution": "S"}]
    (made,) = read(Data(source=jsonl(tmp_path, rows), language="swa"))
    assert (made.prompt, made.privileged["translation"]) == ("T", "P")


def test_without_its_translation_the_english_problem_is_no_substitute(tmp_path: Path):
    """A typo in the language must not train on English under another name."""
    told = message(Data(source=jsonl(tmp_path, WIDE), language=["swa", "zul"]))
    assert "neither a language column nor 'problem_zul'" in told


def test_the_remaining_benchmarks(tmp_path: Path):
    rows = [
        {"unique_id": "test/1", "problem": "P", "solution": "S", "answer": "\\frac{1}{2}"},
        {"id": "low-bn-0", "question": "Q", "answer": "7", "level": "low"},
        {"id": 60, "problem": "Aya", "solution": "so 204", "answer": "204"},
        {"question": "Janet", "answer": None, "answer_number": 18, "equation_solution": None},
        {"question_id": 1, "prompt": "Divide", "solution": "S", "answer": "\\boxed{5}"},
    ]
    made = [
        p for i, row in enumerate(rows) for p in read(Data(source=jsonl(tmp_path, [row], f"r{i}")))
    ]
    assert [p.answer for p in made] == ["\\frac{1}{2}", "7", "204", "18", "5"]
    assert [p.text for p in made] == ["P", "Q", "Aya", "Janet", "Divide"]
    assert made[1].metadata["level"] == "low" and made[0].metadata["unique_id"] == "test/1"


def test_a_tsv_without_a_header_is_a_question_and_an_answer_unquoted(tmp_path: Path):
    path = tmp_path / "mgsm_de.tsv"
    path.write_text('"Ja", sagt er. Wie viele?\t1,800\nUnd nun?\t3\n', "utf-8")
    first, second = read(Data(source=str(path), language="eng"))
    assert (first.prompt, first.answer) == ('"Ja", sagt er. Wie viele?', "1,800")
    assert (second.prompt, second.answer) == ("Und nun?", "3")


def test_a_quoted_tsv_keeps_its_line_breaks(tmp_path: Path):
    path = tmp_path / "test.tsv"
    path.write_text('question\tanswer\n"One\nline ""and"" another"\t18\n', "utf-8")
    (made,) = read(Data(source=str(path)))
    assert (made.prompt, made.answer) == ('One\nline "and" another', "18")


def test_a_worked_solution_says_its_own_answer(tmp_path: Path):
    rows = [{"problem": "P", "solution": "so \\boxed{4}"}, {"problem": "Q", "solution": "none"}]
    assert [p.answer for p in read(Data(source=jsonl(tmp_path, rows)))] == ["4", None]


def test_rows_that_bring_the_teachers_whole_prompt_and_dialogues_with_an_answer():
    asked = [{"role": "user", "content": "1 + 1?"}]
    rows = [
        {"prompt": asked, "teacher_prompt": "1 + 1? Hint: 2."},
        {"prompt": asked, "privileged_context": [{"role": "user", "content": "It is 2."}]},
        {"messages": [*asked, {"role": "assistant", "content": "It is \\boxed{2}."}]},
    ]
    whole, context, dialogue = as_problems(rows)
    assert whole.privileged == {"teacher_prompt": "1 + 1? Hint: 2."}
    assert context.privileged == {"solution": "It is 2."}
    assert dialogue.prompt == tuple(asked) and dialogue.answer == "2"
    assert dialogue.privileged == {"solution": "It is \\boxed{2}."}


def test_json_lines_under_the_name_of_json_are_read(tmp_path: Path):
    path = tmp_path / "translated.json"
    path.write_text("".join(json.dumps(row) + "\n" for row in WIDE[:2]), "utf-8")
    assert len(read(Data(source=str(path), language="yor"))) == 2


def test_several_languages_from_one_file_and_from_one_file_each(tmp_path: Path):
    whole = read(Data(source=jsonl(tmp_path, WIDE, "whole"), language=["swa", "yor"]))
    for code in ("swa", "yor"):
        rows = [{**row, "problem": row[f"problem_{code}"], "en": row["problem"]} for row in WIDE]
        jsonl(tmp_path, rows, f"part_{code}")
    split = read(
        Data(
            source=str(tmp_path / "part_{language}.jsonl"),
            columns={"prompt": "problem_{language}", "translation": "en"},
            filters=Filters(require=("problem_swa_ok",)),
            language=["swa", "yor"],
        )
    )
    assert [p.language for p in whole].count("swa") == 5  # one translation is not ok
    assert [p.language for p in whole].count("yor") == 6
    assert sorted(p.text for p in split if p.language == "swa") == sorted(
        p.text for p in whole if p.language == "swa"
    )


def test_rows_in_other_languages_are_counted_and_left_out(tmp_path: Path):
    account = DataReport()
    made = read(Data(source=jsonl(tmp_path, LONG), language="yor"), account)
    assert {p.language for p in made} == {"yor"} and len(made) == 4
    assert account.as_dict()["dropped"][0]["reason"] == "in another language"
    assert account.rows == 8 and account.dropped.total() == 4
    assert {p.language for p in read(Data(source=jsonl(tmp_path, LONG)))} == {"swa", "yor"}


def test_a_row_in_an_unknown_language_names_its_row(tmp_path: Path):
    rows = [{"problem": "P", "language": "Klingon"}]
    told = message(Data(source=jsonl(tmp_path, rows)))
    assert "rows.jsonl, line 1: unknown language 'Klingon'" in told


def test_every_drop_is_counted_under_its_reason(tmp_path: Path):
    rows = [
        {"problem": "kept", "solution": "short", "answer": "1", "correct": True},
        {"problem": "wrong", "solution": "short", "answer": "1", "correct": False},
        {"problem": "long", "solution": "x" * 50, "answer": "1", "correct": "true"},
        {"problem": "no answer", "solution": "short", "answer": "", "correct": 1},
        {"problem": "incomplete", "solution": "", "answer": "1", "correct": True},
    ]
    account = DataReport()
    filters = Filters(require=("correct",), longest={"prompt": 40}, answered=True, complete=True)
    data = Data(source=jsonl(tmp_path, rows), columns={"solution": "solution"}, filters=filters)
    assert [p.text for p in read(data, account)] == ["kept", "long"]
    filters = filters.model_copy(update={"longest": {"solution": 40}})
    account = DataReport()
    kept, _ = load_problems(data.model_copy(update={"filters": filters}), account)
    assert [p.text for p in kept] == ["kept"]
    assert account.dropped == {
        "'correct' is not true": 1,
        "solution longer than 40 characters": 1,
        "no answer": 1,
        "no solution": 1,
    }
    assert account.lines()[0].endswith("rows.jsonl, line 2)")
    assert account.kept.total() + account.dropped.total() == account.rows == 5


def test_filters_that_name_what_is_not_there_are_refused(tmp_path: Path):
    source = jsonl(tmp_path, WIDE)
    told = message(Data(source=source, filters=Filters(require=("right",))))
    assert "line 1: filters.require: no column 'right'; columns: problem" in told
    told = message(Data(source=source, filters=Filters(longest={"proof": 9})))
    assert "filters.longest: no text 'proof'; texts: prompt, solution" in told


def test_when_nothing_is_left_the_reasons_are_told(tmp_path: Path):
    rows = [{**row, "correct": False} for row in WIDE]
    told = message(Data(source=jsonl(tmp_path, rows), filters=Filters(require=("correct",))))
    assert "no problem is left of 6 rows (6 left out: 'correct' is not true" in told


def test_the_dev_problems_are_the_same_in_every_language(tmp_path: Path):
    source = jsonl(tmp_path, WIDE)
    data = Data(source=source, language=["swa", "yor", "eng"], dev=2, columns={})
    rows = [{**row, "problem_eng": row["problem"]} for row in WIDE if row["problem_swa_ok"]]
    train, dev = load_problems(data.model_copy(update={"source": jsonl(tmp_path, rows, "all")}))
    assert len(dev) == 6 and len(train) == 9
    english = {p.privileged.get("translation", p.text) for p in dev}
    assert len(english) == 2
    assert english.isdisjoint(p.privileged.get("translation", p.text) for p in train)


def test_limits_are_per_language(tmp_path: Path):
    train, _ = load_problems(Data(source=jsonl(tmp_path, LONG), limit=3))
    assert [p.language for p in train] == ["swa"] * 3 + ["yor"] * 3


def test_weights_name_the_languages_asked_for(tmp_path: Path):
    source = jsonl(tmp_path, LONG)
    told = message(Data(source=source, language=["swa", "yor"], weights={"swa": 2}))
    assert "data.weights names swa, data.language swa, yor" in told
    assert Data(source=source, language=["sw"], weights={"Swahili": 2}).shares() == {"swa": 2}


# Streams


def streamed(source: str, **changes: Any) -> tuple[ProblemStream, list]:
    stream, dev = load_problems(Data(source=source, streaming=True, **changes))
    assert isinstance(stream, ProblemStream)
    return stream, dev


def numbered(folder: Path, n: int = 60) -> str:
    return jsonl(folder, [{"problem": f"P{i}", "answer": str(i)} for i in range(n)])


@pytest.mark.parametrize("world", [1, 2, 3])
def test_processes_share_an_epoch_of_a_stream(tmp_path: Path, world: int):
    stream, _ = streamed(numbered(tmp_path))
    shares = [
        [p.text for p in islice(stream.read(rank, world, seed=1), 60 // world)]
        for rank in range(world)
    ]
    together = sorted(text for share in shares for text in share)
    assert together == sorted(f"P{i}" for i in range(60))
    again = [p.text for p in islice(stream.read(0, world, seed=1), 60 // world)]
    assert again == shares[0] != sorted(shares[0])


def test_a_stream_goes_on_in_another_order(tmp_path: Path):
    stream, _ = streamed(numbered(tmp_path, 8))
    texts = [p.text for p in islice(stream.read(), 16)]
    assert sorted(texts[:8]) == sorted(texts[8:]) and texts[:8] != texts[8:]


def test_a_streams_dev_problems_are_held_out(tmp_path: Path):
    stream, dev = streamed(numbered(tmp_path), dev=10)
    seen = {p.text for p in islice(stream.read(), 100)}
    assert len(dev) == 10 and len(seen) == 50
    assert seen.isdisjoint(p.text for p in dev)


def test_streams_of_several_languages_are_drawn_by_weight(tmp_path: Path):
    for code in ("swa", "yor"):
        jsonl(tmp_path, [{"problem": f"{code}{i}"} for i in range(9)], code)
    stream, _ = streamed(
        str(tmp_path / "{language}.jsonl"), language=["swa", "yor"], weights={"swa": 1, "yor": 9}
    )
    drawn = [p.language for p in islice(stream.read(seed=3), 200)]
    assert 5 < drawn.count("swa") < 40
    assert all(p.text.startswith(p.language) for p in islice(stream.read(), 50))


def test_a_parquet_file_and_a_streaming_dataset_are_streams_too(tmp_path: Path):
    from datasets import Dataset, IterableDataset

    Dataset.from_list([{"problem": f"P{i}"} for i in range(5)]).to_parquet(tmp_path / "r.parquet")
    stream, _ = streamed(str(tmp_path / "r.parquet"))
    assert {p.text for p in islice(stream.read(), 5)} == {f"P{i}" for i in range(5)}
    made = as_problems(IterableDataset.from_list([{"prompt": "A"}]))
    assert isinstance(made, ProblemStream) and next(made.read()).text == "A"


def test_what_a_stream_cannot_do_is_said(tmp_path: Path):
    source = numbered(tmp_path, 4)
    assert "not a share" in message(Data(source=source, streaming=True, dev=0.5))
    assert "data.limit" in message(Data(source=source, streaming=True, limit=5))
    stream, _ = streamed(source, filters=Filters(require=("problem",)))
    with pytest.raises(UserError, match="no problem for process 0 of 1"):
        next(stream.read())
    stream, _ = streamed(jsonl(tmp_path, [{"x": 1}], "other"))
    with pytest.raises(UserError, match=r"other.jsonl, line 1: no problem"):
        next(stream.read())


# The real files


@real_data
@pytest.mark.parametrize("kind", ["afrimgsm", "mgsm"])
def test_the_real_benchmarks_read_as_250_rows(kind: str):
    files = sorted(Path(str(REAL), kind).rglob("*.tsv"))
    assert files
    for path in files:
        made = read(Data(source=str(path)))
        assert len(made) == 250, path
        assert all(p.answer and p.answer.replace(",", "").isdigit() for p in made), path


@real_data
def test_the_real_gsm8k_math_aime_and_amo_read_whole():
    sizes = {
        "gsm8k/train.jsonl": 7473,
        "gsm8k/test.jsonl": 1319,
        "math500/math500_test.json": 500,
        "aime24/test.jsonl": 30,
        "amo_bench/test.jsonl": 50,
        "amo_bench/test-00000-of-00001.parquet": 50,
    }
    for name, size in sizes.items():
        made = read(Data(source=str(Path(str(REAL), name))))
        assert len(made) == size and all(p.answer for p in made), name
