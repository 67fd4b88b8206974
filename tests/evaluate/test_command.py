"""`opsd evaluate` and `opsd compare` from end to end, on files in the suites' own forms."""

from __future__ import annotations

import csv
import json
import os
from importlib import resources
from pathlib import Path

import pytest
import torch
import yaml
from peft import LoraConfig, get_peft_model
from tests.conftest import tiny_model

from opsd.evaluate.command import evaluate_models
from opsd.evaluate.compare import compare
from opsd.recipe import parse
from opsd.run import read_jsonl
from opsd.train import train
from opsd.types import UserError

SHIPPED = resources.files("opsd.data") / "languages"
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
    tmp_path: Path, tiny_folder: Path, capsys
):
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
    assert "languages, as in training: qaa" in capsys.readouterr().err
    other = tmp_path / "other" / "test.jsonl"
    other.parent.mkdir()
    other.write_text(test.read_text())
    with pytest.raises(UserError, match="another file"):
        evaluate_models([model], data=str(other), **about)
    with pytest.raises(UserError, match="no column 'q' for 'prompt'"):
        evaluate_models([model], data=str(test), **{**about, "columns": {"prompt": "q"}})


def test_the_built_in_world_is_data_too(tmp_path: Path, tiny_folder: Path):
    about = {"data": "miniature", "languages": ["swa", "zul"], "limit": 2}
    told = evaluate_models(
        [str(tiny_folder)], **about, samples=1, budgets=[2], output=tmp_path / "out"
    )
    assert [(r["suite"], r["n_problems"]) for r in told["results"]] == [("miniature", 2)] * 2


def test_one_of_suite_and_data_is_named(tmp_path: Path):
    for both in ({}, {"suite": "gsm8k", "data": "x.jsonl"}):
        with pytest.raises(UserError, match="either --suite"):
            evaluate_models(["miniature"], **both)


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
