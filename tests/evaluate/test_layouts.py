"""Other tools' layouts: the same numbers, where those tools look for them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from datasets import load_dataset

from opsd.evaluate.layouts import convert
from opsd.evaluate.results import results
from opsd.types import UserError

from .folders import evaluated, rows

TEXTS = {"prompt": "2 + 2?", "completion": r"So \boxed{4}."}
RIGHT = {"a": [True, False], "b": [True, True], "c": [False, False]}


def made(folder: Path) -> Path:
    samples = [
        *rows(RIGHT, language="swa", **TEXTS),
        *rows({"d": [True, True]}, language="zul", **TEXTS),
    ]
    return evaluated(folder / "org_m" / "suite", samples, "org/m")


def test_lm_eval_finds_scores_and_samples(tmp_path: Path):
    folder = made(tmp_path)
    written = convert([tmp_path], "lm-eval", tmp_path / "out")
    assert {p.parent for p in written} == {tmp_path / "out" / "org__m"}
    (scores,) = (p for p in written if p.name.startswith("results_"))
    told = json.loads(scores.read_text())
    expected = {
        (row["language"], row["budget"]): row
        for row in results("org/m", "suite", _read(folder / "samples.jsonl"), (4, 8), 2)
    }
    assert told["results"].keys() == {f"suite_{code}_{b}" for code, b in expected}
    for (code, budget), row in expected.items():
        entry = told["results"][f"suite_{code}_{budget}"]
        for metric in ("avg@k", "pass@k", "maj@k"):
            assert entry[f"{metric},none"] == pytest.approx(row[metric])
    assert told["results"]["suite_swa_8"]["avg@k_stderr,none"] == pytest.approx(0.5 / 3**0.5)
    assert told["n-samples"]["suite_swa_8"] == {"original": 3, "effective": 3}
    # The date is what stands behind the last underscore, as that tool reads it.
    date = scores.name.removeprefix("results_").removesuffix(".json")
    lines = _read(scores.with_name(f"samples_suite_swa_8_{date}.jsonl"))
    assert [line["doc_id"] for line in lines] == [0, 1, 2]
    assert lines[0]["resps"] == [[TEXTS["completion"]] * 2] and lines[0]["target"] == "4"
    assert lines[0]["filtered_resps"] == [["4", ""]] and lines[0]["avg@k"] == 0.5
    assert convert([tmp_path / "org_m"], "lm-eval", tmp_path / "out") == written  # as before


def test_lighteval_finds_scores_and_details(tmp_path: Path):
    made(tmp_path)
    written = convert([tmp_path], "lighteval", tmp_path / "out")
    (scores,) = (p for p in written if p.name.startswith("results_"))
    assert scores.parent == tmp_path / "out" / "results" / "org" / "m"
    told = json.loads(scores.read_text())
    assert told["results"]["suite_swa_8|0"]["avg@k"] == pytest.approx(0.5)
    assert told["results"]["all"]["avg@k"] == pytest.approx(0.75)
    date = scores.stem.removeprefix("results_")
    details = tmp_path / "out" / "details" / "org" / "m" / date
    file = details / f"details_suite_swa_8|0_{date}.parquet"
    loaded = load_dataset("parquet", data_files=str(file), split="train", cache_dir=str(tmp_path))
    assert sorted(loaded.column_names) == ["doc", "metric", "model_response"]
    assert loaded[0]["model_response"]["text"] == [TEXTS["completion"]] * 2
    assert loaded[0]["metric"]["avg@k"] == 0.5 and loaded[0]["doc"]["query"] == TEXTS["prompt"]


def test_what_cannot_be_converted_is_named(tmp_path: Path):
    with pytest.raises(UserError, match="unknown layout 'helm'; known: lm-eval, lighteval"):
        convert([tmp_path], "helm", tmp_path / "out")
    with pytest.raises(UserError, match=r"contains no samples\.jsonl"):
        convert([tmp_path], "lm-eval", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_splits_are_tasks_of_their_own(tmp_path: Path):
    low = rows({"a": [True, True], "b": [True, True]}, split="low", suite="polymath", **TEXTS)
    top = rows({"c": [False, False]}, split="top", suite="polymath", **TEXTS)
    evaluated(tmp_path / "m" / "polymath", [*low, *top], budgets=(8,))
    scores, *_ = convert([tmp_path], "lm-eval", tmp_path / "out")
    told = json.loads(scores.read_text())["results"]
    assert {name: entry["avg@k,none"] for name, entry in told.items()} == {
        "polymath_swa_low": 1.0,
        "polymath_swa_top": 0.0,
    }


def test_what_is_not_finished_or_there_twice_is_refused(tmp_path: Path):
    half = rows({"a": [True, True], "b": [True]}, **TEXTS)
    evaluated(tmp_path / "half" / "m" / "suite", half)
    with pytest.raises(UserError, match="swa has 1 samples of one problem and 2 of another; fin"):
        convert([tmp_path / "half"], "lm-eval", tmp_path / "out")
    for home in ("one", "two"):
        evaluated(tmp_path / home / "m" / "suite", rows(RIGHT, **TEXTS), budgets=(8,))
    both = [tmp_path / "one", tmp_path / "two"]
    with pytest.raises(UserError, match=r"one/m/suite and .*two/m/suite both contain suite_swa"):
        convert(both, "lm-eval", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert convert([both[0], both[0] / "m"], "lm-eval", tmp_path / "out")  # the same one


@pytest.mark.parametrize("layout", ["lm-eval", "lighteval"])
@pytest.mark.parametrize("model", ["../../esc", "..", ".", "/a//b"])
def test_whatever_a_models_name_files_stay_in_the_output(tmp_path: Path, layout: str, model: str):
    samples = rows({"a": [True]}, split="../../x", **TEXTS)
    evaluated(tmp_path / "eval", samples, model)
    out = tmp_path / "deep" / "er" / "out"
    written = convert([tmp_path / "eval"], layout, out)
    assert written and all(out.resolve() in path.resolve().parents for path in written)
    assert [path.name for path in tmp_path.glob("deep/er/*")] == ["out"]
    assert [path.name for path in tmp_path.glob("deep/*")] == ["er"]


def test_temperature_nought_does_not_sample(tmp_path: Path):
    evaluated(tmp_path / "eval", rows({"a": [True]}, **TEXTS), temperature=0.0, budgets=(8,))
    scores, *_ = convert([tmp_path / "eval"], "lm-eval", tmp_path / "out")
    told = json.loads(scores.read_text())["configs"]["suite_swa"]["generation_kwargs"]
    assert (told["do_sample"], told["temperature"]) == (False, 0.0)


def _read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]
