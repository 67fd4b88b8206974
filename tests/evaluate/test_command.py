"""`opsd evaluate` and `opsd compare` from end to end, on files in the suites' own forms."""

from __future__ import annotations

import csv
import json
import os
import shutil
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import LoraConfig, get_peft_model
from tests.conftest import tiny_model

from opsd.evaluate import contamination
from opsd.evaluate.command import evaluate_models
from opsd.evaluate.compare import compare
from opsd.languages import registry as known_languages
from opsd.prompts.prompt import read
from opsd.recipe.schema import parse
from opsd.recipe.train import train
from opsd.runs.files import read_jsonl
from opsd.types import UserError, View

SHIPPED = resources.files("opsd.languages")
REAL = os.environ.get("OPSD_DATA")


QUICK = {
    "max_steps": 1,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 1,
    "report_to": [],
    "disable_tqdm": True,
    "use_cpu": True,
}


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path, tokenizer) -> str:
    """A LoRA adapter of the tiny model, far enough from it to say other things."""
    model = tiny_model(len(tokenizer))
    model.name_or_path = model.config._name_or_path = str(tiny_folder)
    made = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear"))
    torch.manual_seed(1)
    for name, weight in made.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    folder = tmp_path_factory.mktemp("adapter") / "tuned"
    made.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """AfriMGSM in small: two languages, one with a label that is flagged."""
    for code in ("ibo", "swa"):
        file = tmp_path / "data" / "afrimgsm" / code / "test.tsv"
        file.parent.mkdir(parents=True)
        with file.open("w", encoding="utf-8", newline="") as out:
            writer = csv.writer(out, delimiter="\t", lineterminator="\n")
            writer.writerow(("question", "answer"))
            writer.writerows((f'{code}\n"{n}" + 1?', 70000 if n == 2 else n) for n in range(4))
    return tmp_path / "data"


def test_base_and_adapter_in_several_languages_in_one_call(
    tmp_path: Path, tiny_folder: Path, adapter: str, data: Path, capsys, monkeypatch
):
    monkeypatch.setenv("COLUMNS", "300")
    models = [str(tiny_folder), adapter]
    told = evaluate_models(
        models,
        suite="afrimgsm",
        data_dir=data,
        languages=["all"],
        samples=2,
        budgets=[6, 3],
        output=tmp_path / "out",
    )
    kinds = [(r["model"], r["language"], r["labels"], r["budget"]) for r in told["results"]]
    sets = [("ibo", "upstream"), ("ibo", "corrected"), ("swa", "upstream")]
    assert kinds == [(m, *kind, b) for m in models for kind in sets for b in (3, 6)]
    assert [r["n_problems"] for r in told["results"]] == [4, 4, 3, 3, 4, 4] * 2
    folders = sorted((tmp_path / "out").glob("*/afrimgsm"))
    assert len(folders) == 2
    for folder in folders:
        assert {f.name for f in folder.iterdir()} == {
            *("protocol.json", "samples.jsonl", "result.json")
        }
    base, tuned = (
        {(r["problem"], r["sample"]): r["completion"] for r in read_jsonl(f / "samples.jsonl")}
        for f in folders
    )
    assert base.keys() == tuned.keys() and len(base) == 16
    assert base != tuned  # the adapter is at work
    shown = capsys.readouterr().err
    assert "mean" in shown and "samples/s" in shown and "tokens/s" in shown
    compared = compare([tmp_path / "out" / folders[0].parent.name, tmp_path / "out"])
    assert {(r["language"], r["labels"]) for r in compared["comparisons"]} == {
        *sets,
        *(("all", "upstream"), ("all", "corrected")),
    }


def test_the_adapters_base_may_not_change_under_its_samples(
    tmp_path: Path, tiny_folder: Path, adapter: str, data: Path
):
    about = {"suite": "afrimgsm", "data_dir": data, "languages": ["swa"], "budgets": [2]}
    evaluate_models([adapter], **about, samples=1, output=tmp_path / "out")
    weights = tiny_folder / "model.safetensors"
    before = weights.stat()
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    try:
        with pytest.raises(UserError, match="other weights"):
            evaluate_models([adapter], **about, samples=2, output=tmp_path / "out")
    finally:
        os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_file_of_ones_own_with_a_language_in_its_name(tmp_path: Path, tiny_folder: Path):
    for code in ("swa", "yor"):
        row = {"problem": f"{code}?", "answer": "1"}
        (tmp_path / f"mine_{code}.jsonl").write_text(json.dumps(row) + "\n")
    told = evaluate_models(
        [str(tiny_folder)] * 2,
        data=str(tmp_path / "mine_{language}.jsonl"),
        languages=["swa", "yor"],
        samples=1,
        budgets=[2],
        output=tmp_path / "out",
    )
    assert [(r["suite"], r["language"], r["n_problems"]) for r in told["results"]] == [
        ("mine", "swa", 1),
        ("mine", "yor", 1),
    ]


def test_a_file_of_ones_own_is_read_as_the_trained_models_was(
    tmp_path: Path, tiny_folder: Path, capsys, monkeypatch
):
    monkeypatch.setattr(known_languages, "_OWN", {})
    own = yaml.safe_load((SHIPPED / "zul.yaml").read_text("utf-8"))
    own |= {"code": "qaa", "name": "Ours", "instruction": r"Say it in \boxed{}."}
    own["aliases"] = []
    language = tmp_path / "ours.yaml"
    language.write_text(yaml.safe_dump(own))
    rows = [{"frage": f"{i} + 1", "antwort": f"{i + 1}", "solution": "s"} for i in range(4)]
    file = tmp_path / "train.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = {"prompt": "frage", "answer": "antwort"}
    recipe = {
        "model": {"name": str(tiny_folder), "lora": {"r": 2}},
        "method": "opsd",
        "data": {"source": str(file), "language": str(language), "columns": columns},
        "sampling": {"max_completion_length": 2},
        "train": QUICK,
    }
    train(parse(recipe), tmp_path / "run")
    language.unlink()
    about = {"samples": 1, "budgets": [2], "columns": None}
    model, test = str(tmp_path / "run" / "model"), tmp_path / "test.jsonl"
    test.write_text(json.dumps({"frage": "1 + 1", "antwort": "2"}) + "\n")
    (told,) = evaluate_models([model], data=str(test), **about)["results"]
    assert (told["language"], told["n_problems"]) == ("qaa", 1)
    assert "languages (those of training): qaa" in capsys.readouterr().err
    other = tmp_path / "other" / "test.jsonl"
    other.parent.mkdir()
    other.write_text(test.read_text())
    with pytest.raises(UserError, match="another file"):
        evaluate_models([model], data=str(other), **about)
    with pytest.raises(UserError, match="no column 'q' for 'prompt'"):
        evaluate_models([model], data=str(test), **{**about, "columns": {"prompt": "q"}})


def test_a_model_that_was_trained_behind_worked_examples_is_asked_behind_them(
    tmp_path: Path, tiny_folder: Path, monkeypatch
):
    run, test = tmp_path / "run", tmp_path / "test.jsonl"
    shutil.copytree(tiny_folder, run / "model")
    test.write_text(json.dumps({"problem": "1 + 1", "answer": "2"}) + "\n")
    shown = [{"problem": "2 + 2", "solution": "4"}]
    recipe = {"model": {"name": str(tiny_folder)}, "method": "opsd"}
    recipe["data"] = {"source": str(test), "examples": shown}
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    about = {"data": str(test), "samples": 1, "budgets": [2], "output": tmp_path / "out"}
    asked = []

    def watched(tokenizer: Any, view: View, room: int, limit: int) -> Any:
        asked.append([turn["content"] for turn in view.messages])
        return read(tokenizer, view, room, limit)

    monkeypatch.setattr("opsd.evaluate.run.read", watched)
    evaluate_models([str(run)], **about)
    assert asked[0][:2] == ["2 + 2", "4"] and len(asked[0]) == 3
    (claim,) = (json.loads(p.read_text()) for p in (tmp_path / "out").rglob("protocol.json"))
    assert claim["protocol"]["examples"] == shown
    with pytest.raises(UserError, match="samples of another kind"):
        evaluate_models([str(run)], **about, plain=True)


def test_the_built_in_world_is_data_too(tmp_path: Path, tiny_folder: Path):
    about = {"data": "miniature", "languages": ["swa", "zul"], "limit": 2}
    told = evaluate_models(
        [str(tiny_folder)], **about, samples=1, budgets=[2], output=tmp_path / "out"
    )
    assert [(r["suite"], r["n_problems"]) for r in told["results"]] == [("miniature", 2)] * 2
    same = compare([tmp_path / "out", shutil.copytree(tmp_path / "out", tmp_path / "other")])
    assert {row["difference"] for row in same["comparisons"]} == {0.0}


def test_one_of_suite_and_data_is_named(tmp_path: Path):
    for both in ({}, {"suite": "gsm8k", "data": "x.jsonl"}):
        with pytest.raises(UserError, match="either --suite"):
            evaluate_models(["miniature"], **both)


def polymath(folder: Path) -> Path:
    """PolyMath in small: one language, two problems of each level."""
    for level in ("low", "medium", "high", "top"):
        file = folder / "polymath" / "sw" / f"{level}.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        rows = [
            {"id": f"{level}-sw-{n}", "question": f"{level}: {n} + 1?", "answer": f"${n + 1}$"}
            for n in range(2)
        ]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_polymaths_levels_are_scored_alone_and_weighted(
    tmp_path: Path, tiny_folder: Path, capsys, monkeypatch
):
    monkeypatch.setenv("COLUMNS", "300")
    about = {"suite": "polymath", "data_dir": polymath(tmp_path / "data"), "languages": ["sw"]}
    about |= {"samples": 1, "budgets": [2], "output": tmp_path / "out"}
    (whole,) = evaluate_models([str(tiny_folder)], **about)["results"]
    assert (whole["language"], whole["n_problems"]) == ("swa", 8)
    weights = {split: part["weight"] for split, part in whole["splits"].items()}
    assert weights == {"low": 1, "medium": 2, "high": 4, "top": 8}
    assert all(part["n_problems"] == 2 for part in whole["splits"].values())
    shown = capsys.readouterr().out
    assert "swa top (x 8)" in shown and "swa weighted" in shown
    (kept,) = json.loads(next((tmp_path / "out").rglob("result.json")).read_text())["results"]
    assert kept == whole
    (few,) = evaluate_models([str(tiny_folder)], **about, splits=["high", "top"])["results"]
    assert set(few["splits"]) == {"high", "top"} and few["n_problems"] == 4
    assert few["splits"]["top"] == whole["splits"]["top"]


def test_what_is_not_said_is_as_the_suites_numbers_were_measured(
    tmp_path: Path, tiny_folder: Path, data: Path, capsys
):
    about = {"suite": "afrimgsm", "data_dir": data, "languages": ["swa"], "limit": 1}
    models = [str(tiny_folder)]
    told = evaluate_models(models, **about, budgets=[2], output=tmp_path / "one")
    assert [(r["samples"], r["budget"]) for r in told["results"]] == [(12, 2)]
    said = capsys.readouterr().err
    assert (
        "afrimgsm: not its published protocol: budget 2 instead of 1,024 and 2,048 and 4,096"
        " (COPSD, arXiv 2605.09548)" in said
    )
    assert "thinking on" in said and "numbers on afrimgsm are of other models: Qwen3-1.7B" in said
    evaluate_models(
        models, **about, samples=1, budgets=[2], thinking=False, output=tmp_path / "two"
    )
    assert "samples 1 instead of 12, budget 2" in capsys.readouterr().err
    held = json.loads(next((tmp_path / "two").rglob("protocol.json")).read_text())["protocol"]
    assert held["prompt"]["template_options"] == {"enable_thinking": False}


def test_multiple_choice_is_graded_by_the_letter(tmp_path: Path, tiny_folder: Path):
    rows = [
        {"q": f"Which is {n}?", "choices": [f"{n}", f"{n + 1}"], "right": "A"} for n in range(3)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    content = {
        "source": "rows.jsonl",
        "languages": ["eng"],
        "columns": {"prompt": "q"},
        "choices": {"options": "choices", "key": "right"},
    }
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(content))
    about = {"suite": str(tmp_path / "mine.yaml"), "output": tmp_path / "out"}
    (told,) = evaluate_models([str(tiny_folder)], **about, budgets=[2], samples=1)["results"]
    assert (told["suite"], told["n_problems"]) == ("mine", 3)
    samples = list(read_jsonl(next((tmp_path / "out").rglob("samples.jsonl"))))
    assert {row["answer"] for row in samples} == {"A"}
    assert all("A. " in row["prompt"] for row in samples)


def test_problems_that_the_run_was_trained_on_are_counted_and_said(
    tmp_path: Path, tiny_folder: Path, capsys, monkeypatch
):
    texts = [f"A hen lays {n} eggs a day; how many does she lay in a week?" for n in range(4)]
    rows = [{"question": t, "answer": f"#### {7 * n}"} for n, t in enumerate(texts)]
    copies = tmp_path / "gsm8k"
    copies.mkdir()
    for name, kept in (("test", rows), ("train", rows[:3])):
        (copies / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
    recipe = {
        "model": {"name": str(tiny_folder), "lora": {"r": 2}},
        "method": "opsd",
        "data": {"source": str(copies / "train.jsonl")},
        "sampling": {"max_completion_length": 2},
        "train": {**QUICK, "max_steps": 2, "per_device_train_batch_size": 1},
    }
    train(parse(recipe), tmp_path / "run")
    model, about = str(tmp_path / "run" / "model"), {"samples": 1, "budgets": [2]}
    capsys.readouterr()
    told = evaluate_models([str(tiny_folder), model], suite="gsm8k", data_dir=tmp_path, **about)
    base, tuned = told["results"]
    assert "trained_on" not in base and tuned["trained_on"] == 2  # two steps of one problem
    said = capsys.readouterr().err
    assert "contamination: 2 of 4 problems of gsm8k eng occur in the prompts that" in said
    assert "training data" not in said  # its train split is no part of the suite
    kept = json.loads(next((tmp_path / "run").rglob("*model/gsm8k/result.json")).read_text())
    assert kept["results"] == [tuned]
    file = tmp_path / "run" / "recipe.yaml"
    file.write_text(file.read_text().replace("train.jsonl", "test.jsonl"))
    (tmp_path / "mgsm").mkdir()
    (tmp_path / "mgsm" / "mgsm_en.tsv").write_text("2 + 2?\t4\n")
    again = shutil.copytree(model, tmp_path / "run" / "checkpoint-2", dirs_exist_ok=True)
    read, scan = [], contamination.trained_on
    monkeypatch.setattr(
        contamination, "trained_on", lambda *given: read.append(given[1]) or scan(*given)
    )
    evaluate_models([model, str(again)], suite="mgsm", data_dir=tmp_path, **about)
    assert read == [tmp_path / "run"]  # once for both of its models
    said = capsys.readouterr().err
    assert "contamination: mgsm and gsm8k share problems" in said
    assert "gsm8k/test.jsonl, train: All 250 questions are rows 0 to 249" in said


@pytest.mark.skipif(not REAL, reason="OPSD_DATA names no folder of real data")
def test_every_language_of_afrimgsm_is_asked_and_graded(tmp_path: Path, tiny_folder: Path):
    told = evaluate_models(
        [str(tiny_folder)],
        suite="afrimgsm",
        data_dir=Path(str(REAL)) / "afrimgsm",
        limit=3,
        samples=1,
        budgets=[2, 4],
        output=tmp_path / "out",
    )
    kinds = {(r["language"], r["labels"]) for r in told["results"]}
    assert len(kinds) == 18 + 1 and ("ibo", "corrected") in kinds  # of 3 rows, one is flagged
