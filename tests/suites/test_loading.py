"""Suites: what their files look like, which languages are read, and what their labels say."""

from __future__ import annotations

import csv
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from opsd.evaluate.contamination import bare
from opsd.grade.answer import answers_match
from opsd.prompts.prompt import fill
from opsd.suites.labels import fix_of, fixes, mended
from opsd.suites.loading import SUITES, own, read, suite
from opsd.types import Problem, UserError

AFRIMGSM, MGSM = SUITES["afrimgsm"], SUITES["mgsm"]
REAL = os.environ.get("OPSD_DATA")
real_data = pytest.mark.skipif(not REAL, reason="OPSD_DATA names no folder of real data")


def quoted_tsv(path: Path, rows: list[tuple[str, object]]) -> None:
    """AfriMGSM's form: a header, tabs, quotes where a text holds a line break."""
    path.parent.mkdir(parents=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerows([("question", "answer"), *rows])


def african(folder: Path, *codes: str) -> Path:
    for code in codes:
        rows = [(f'"Pili"\nsays: {code} {n} + 1?', f"{n + 1},000") for n in range(4)]
        quoted_tsv(folder / "afrimgsm" / code / "test.tsv", rows)
    return folder


@pytest.mark.parametrize("inner", ["", "afrimgsm"])
def test_a_data_folder_is_the_suites_own_or_the_one_above(tmp_path: Path, inner: str):
    african(tmp_path, "swa", "yor")
    found = read(AFRIMGSM, ["yor", "swa"], tmp_path / inner)
    assert [p.language for p in found] == ["yor"] * 4 + ["swa"] * 4
    assert found[5].prompt == '"Pili"\nsays: swa 1 + 1?' and found[5].answer == "2,000"
    assert [p.metadata["row"] for p in found] == [0, 1, 2, 3] * 2


def test_languages_go_by_any_of_their_names_and_count_once(tmp_path: Path):
    african(tmp_path, "swa")
    found = read(AFRIMGSM, ["Swahili", "swa", "sw"], tmp_path, limit=2)
    assert [(p.language, p.metadata["row"]) for p in found] == [("swa", 0), ("swa", 1)]


@pytest.mark.parametrize("asked", [[], ["all"]])
def test_all_languages_are_those_that_are_there(tmp_path: Path, capsys, asked: list[str]):
    african(tmp_path, "eng", "swa", "amh")
    found = read(AFRIMGSM, asked, tmp_path)
    assert list(dict.fromkeys(p.language for p in found)) == ["amh", "swa", "eng"]
    (told,) = [line for line in capsys.readouterr().err.splitlines() if "the means" in line]
    assert "vai" in told and "swa" not in told


def test_a_missing_file_is_an_error_that_lists_those_that_are_there(tmp_path: Path):
    african(tmp_path, "eng", "swa")
    with pytest.raises(UserError, match=r"no file .*vai.*test\.tsv; .* has swa, eng"):
        read(AFRIMGSM, ["swa", "vai"], tmp_path)
    with pytest.raises(UserError, match=r"has no copy of mgsm: no file like .*mgsm_sw\.tsv"):
        read(MGSM, ["swa"], tmp_path)


def test_a_language_that_the_suite_does_not_have_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="gsm8k has no 'swa'; it has: eng"):
        read(SUITES["gsm8k"], ["swa"], tmp_path)
    with pytest.raises(UserError, match="unknown language"):
        read(AFRIMGSM, ["xxx"], tmp_path)
    with pytest.raises(UserError, match=r"unknown suite 'afrimsgm'; did you mean 'afrimgsm'\?"):
        suite("afrimsgm")


def test_all_languages_and_some_of_them_are_not_asked_for_at_once(tmp_path: Path):
    african(tmp_path, "swa", "yor")
    with pytest.raises(UserError, match="--language all,swa: 'all' includes the others"):
        read(AFRIMGSM, ["all", "swa"], tmp_path)


def test_mgsm_has_two_letters_in_its_files_and_three_in_ours(tmp_path: Path):
    (tmp_path / "mgsm").mkdir()
    for letters in ("sw", "en"):
        text = "".join(f'{letters}: "{n} apples?\t{n},000\n' for n in range(4))
        (tmp_path / "mgsm" / f"mgsm_{letters}.tsv").write_text(text)
    found = read(MGSM, ["swa", "en"], tmp_path)
    assert {p.language for p in found} == {"swa", "eng"}
    assert (found[3].prompt, found[3].answer) == ('sw: "3 apples?', "3,000")


def test_gsm8k_reads_its_own_form(tmp_path: Path):
    row = '{"question": "2 + 2?", "answer": "It is <<2+2=4>>4.\\n#### 4"}\n'
    (tmp_path / "test.jsonl").write_text(row * 4)
    found = read(SUITES["gsm8k"], [], tmp_path)
    assert [(p.prompt, p.answer, p.language) for p in found] == [("2 + 2?", "4", "eng")] * 4


def test_another_number_of_rows_than_the_suite_has_is_said(tmp_path: Path, capsys):
    african(tmp_path, "swa")
    read(replace(AFRIMGSM, size=5), ["swa"], tmp_path)
    assert "afrimgsm swa: 4 problems, but the suite has 5" in capsys.readouterr().err
    read(replace(AFRIMGSM, size=5), ["swa"], tmp_path, limit=3)
    assert capsys.readouterr().err == ""


def test_a_hub_that_is_not_reached_leads_to_local_copies(monkeypatch):
    import datasets.config

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"masakhane/afrimgsm.*--data-dir names a folder"):
        read(AFRIMGSM, ["swa"])


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ("some/held_out.jsonl", "held_out"),
        ("org/Set-1.5", "Set-1.5"),
        ("held_out-{language}.tsv", "held_out"),
        ("{language}.csv", "data"),
        ("here/gsm8k.jsonl", "own-gsm8k"),
    ],
)
def test_a_file_of_ones_own_is_a_suite_of_its_name(data: str, name: str):
    assert own(data).name == name


def test_a_file_of_ones_own_says_its_languages_or_is_told_them(tmp_path: Path):
    rows = '{"problem": "a", "answer": "1", "language": "swa"}\n'
    rows += '{"problem": "b", "answer": "2", "language": "zul"}\n'
    (tmp_path / "mixed.jsonl").write_text(rows)
    mixed = own(str(tmp_path / "mixed.jsonl"))
    assert [p.language for p in read(mixed)] == ["swa", "zul"]
    assert [p.prompt for p in read(mixed, ["zul"])] == ["b"]
    (tmp_path / "plain.csv").write_text("problem,answer\na,1\n")
    plain = own(str(tmp_path / "plain.csv"))
    assert [p.language for p in read(plain)] == ["eng"]
    assert [p.language for p in read(plain, ["yor"])] == ["yor"]
    with pytest.raises(UserError, match="use only --data"):
        read(plain, ["yor"], tmp_path)


def labelled(language: str, answers: dict[int, str]) -> list[Problem]:
    return [
        Problem(f"row {row}", answer=answer, language=language, metadata={"row": row})
        for row, answer in answers.items()
    ]


def test_a_label_is_corrected_only_while_it_is_wrong():
    fix = fix_of("afrimgsm", "lug", 229, "21")
    assert fix is not None and (fix.upstream, fix.corrected) == ("21", "276,000")
    assert fix_of("afrimgsm", "lug", 230, "276000") is not None  # the same number
    assert fix_of("afrimgsm", "lug", 229, "276,000") is None  # mended upstream
    assert fix_of("afrimgsm", "lug", 224, "21") is None
    assert fix_of("afrimgsm", "swa", 229, "21") is None
    assert fix_of("another", "lug", 229, "21") is None
    assert fix_of("afrimgsm", "lug", None, "21") is None
    flagged = fix_of("afrimgsm", "ibo", 2, "70000")
    assert flagged is not None and flagged.corrected is None


def test_labels_mended_upstream_are_told_once(tmp_path: Path, capsys):
    assert mended("afrimgsm", labelled("lug", {225: "9", 226: "9", 0: "18"})) == [226]
    rows = [(f"row {n}", 75000 if n == 2 else n) for n in range(4)]
    quoted_tsv(tmp_path / "ibo" / "test.tsv", rows)
    read(AFRIMGSM, ["ibo"], tmp_path)
    assert capsys.readouterr().err.count("labels once wrong have changed (rows 2)") == 1


def test_the_luganda_labels_are_the_next_rows():
    """Each wrong label is the right one of the row before: the questions moved up by one."""
    lug = fixes("afrimgsm", "lug")
    assert sorted(lug) == list(range(225, 249))
    for row in range(226, 249):
        assert lug[row].upstream == lug[row - 1].corrected
    assert set(fixes("afrimgsm", "twi")) == {200} and fixes("afrimgsm", "swa") == {}


@real_data
def test_every_real_file_has_250_problems(capsys):
    found = read(AFRIMGSM, ["all"], Path(str(REAL)))
    counts = {code: sum(p.language == code for p in found) for code in AFRIMGSM.languages}
    assert counts == {code: 0 if code == "vai" else 250 for code in AFRIMGSM.languages}
    assert all(p.answer for p in found)
    told = capsys.readouterr().err
    assert "vai" in told and "but the suite has" not in told and "have changed" not in told
    assert [p.language for p in read(MGSM, [], Path(str(REAL)))] == [
        code for code in MGSM.languages for _ in range(250)
    ]
    assert len(read(SUITES["gsm8k"], [], Path(str(REAL)))) == 1319


@real_data
def test_the_corrected_luganda_labels_are_the_english_ones_of_the_next_row():
    lug, eng = (read(AFRIMGSM, [code], Path(str(REAL))) for code in ("lug", "eng"))
    applied = 0
    for row, problem in enumerate(lug):
        fix = fix_of("afrimgsm", "lug", row, str(problem.answer))
        if fix is not None:
            applied += 1
            assert answers_match(str(fix.corrected), str(eng[row + 1].answer))
    assert applied == 24


def test_answers_that_no_parser_can_judge_are_left_out_and_counted(tmp_path: Path, capsys):
    kinds = ("number", "description", "set", "variable", "description")
    rows = [
        {"question_id": n, "prompt": f"{n}? Write \\boxed{{}}.", "answer": "\\boxed{7}"}
        | {"solution": "so", "answer_type": kind}
        for n, kind in enumerate(kinds)
    ]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read(replace(SUITES["amo_bench"], size=5), [], tmp_path)
    assert [p.metadata["question_id"] for p in found] == [0, 2, 3]
    assert [p.answer for p in found] == ["7"] * 3
    assert fill("student", found[0]) == found[0].text  # it says itself how to answer
    (told,) = capsys.readouterr().err.splitlines()
    assert "2 left out: 'answer_type' is 'description'" in told


def test_sciknoweval_is_its_domains_four_option_questions(tmp_path: Path):
    rows = [
        {
            "prompt": {"default": "Choose."},
            "question": f"{domain} {kind} {level}?",
            "answer": "",
            "choices": {"text": ["w", "x", "y", "z"], "label": ["A", "B", "C", "D"]},
            "answerKey": "C",
            "type": kind,
            "domain": domain,
            "details": {"level": level, "task": "t", "subtask": "s"},
        }
        for domain in ("Physics", "Biology")
        for kind in ("mcq-4-choices", "true_or_false")
        for level in ("L3", "L1")
    ]
    file = tmp_path / "sciknoweval" / "sciknoweval_test_v2.jsonl"
    file.parent.mkdir()
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (found,) = read(SUITES["sciknoweval_physics"], [], tmp_path)
    assert found.text.startswith("Physics mcq-4-choices L3?\n\nA. w\nB. x\nC. y\nD. z\n\n")
    assert found.answer == "C"


@real_data
def test_english_suites_are_read_whole(capsys):
    folder = Path(str(REAL))
    counts = {"math500": 500, "aime24": 30, "amo_bench": 39, "gsm8k": 1319}
    for name, count in counts.items():
        found = read(SUITES[name], [], folder)
        assert len(found) == count and all(p.answer for p in found), name
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1 and "11 left out: 'answer_type' is 'description'" in told[0]


@real_data
def test_mgsm_and_afrimgsm_are_gsm8ks_first_test_rows():
    """What their overlaps say."""
    folder = Path(str(REAL))
    whole = [bare(p.text) for p in read(SUITES["gsm8k"], [], folder, limit=250)]
    shared = [bare(p.text) for p in read(MGSM, ["eng"], folder)]
    assert sum(a == b for a, b in zip(whole, shared, strict=True)) > 240  # a few are retouched
    assert [bare(p.text) for p in read(AFRIMGSM, ["eng"], folder)] == shared
