"""On real files: COPSD from GSM8K in two languages and jointly, then all of AfriMGSM, killed twice.

`OPSD_DATA` names a folder that holds `gsm8k/train.jsonl` and `afrimgsm/<language>/test.tsv`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from opsd.evaluate.compare import compare
from opsd.recipe.schema import parse
from opsd.recipe.train import train
from opsd.report.page import write_report
from opsd.runs.files import read_jsonl
from opsd.suites.loading import SUITES

REAL = os.environ.get("OPSD_DATA")
SIXTEEN = [c for c in SUITES["afrimgsm"].languages if c not in ("eng", "fra", "vai")]
pytestmark = pytest.mark.skipif(REAL is None, reason="OPSD_DATA names no folder of real data")


def translated(folder: Path, rows: int) -> Path:
    """GSM8K's first rows in COPSD's wide schema; a word of the language stands for translation."""
    with (Path(str(REAL)) / "gsm8k" / "train.jsonl").open(encoding="utf-8") as file:
        read = [json.loads(line) for line in islice(file, rows)]
    made = [
        {
            "problem": row["question"],
            "solution": row["answer"],
            "problem_swa": f"Swali: {row['question']}",
            "problem_swa_ok": True,
            "problem_yor": f"Ìbéèrè: {row['question']}",
            "problem_yor_ok": True,
        }
        for row in read
    ]
    path = folder / "translated.json"
    path.write_text(json.dumps(made, ensure_ascii=False), "utf-8")
    return path


def evaluation(output: Path, *models: str) -> list[str]:
    return [
        *(sys.executable, "-m", "opsd", "evaluate", *models, "--suite", "afrimgsm"),
        *("--data-dir", str(REAL), "--language", ",".join(SIXTEEN), "--limit", "4"),
        *("--samples", "2", "--budget", "3,6", "--threads", "1", "--output", str(output)),
    ]


def samples(output: Path) -> dict[tuple, Any]:
    return {
        (row["model"], row["problem"], row["sample"]): row
        for file in output.rglob("samples.jsonl")
        for row in read_jsonl(file)
    }


def scores(output: Path) -> dict[Path, Any]:
    return {
        file.relative_to(output): json.loads(file.read_text())["results"]
        for file in output.rglob("result.json")
    }


def kill_after(command: list[str], output: Path, count: int) -> None:
    """Starts a command and kills it once `count` samples are written down."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        while len(samples(output)) < count:
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()


def test_from_gsm8k_to_a_report_on_all_of_afrimgsm(tmp_path: Path, tiny_folder: Path):
    source = str(translated(tmp_path, 24))
    for name, language in (("swa", "swa"), ("yor", "yor"), ("both", ["swa", "yor"])):
        recipe = {
            "model": {"name": str(tiny_folder), "lora": {"r": 4, "lora_alpha": 8}},
            "method": "copsd",
            "data": {"source": source, "language": language, "dev": 4},
            "sampling": {"max_completion_length": 6},
            "train": {
                "max_steps": 5,
                "per_device_train_batch_size": 2,
                "gradient_accumulation_steps": 2,
                "learning_rate": 0.01,
                "save_steps": 5,
                "eval_samples": 1,
                "use_cpu": True,
            },
        }
        trainer = train(parse(recipe), tmp_path / name)
        assert trainer.state.global_step == 5
        counted = json.loads((tmp_path / name / "data.json").read_text())
        codes = [language] if isinstance(language, str) else language
        assert counted["kept"] == dict.fromkeys(codes, 20) and counted["rows"] == 24
    adapter = str(tmp_path / "both" / "model")
    whole, broken = tmp_path / "whole", tmp_path / "both" / "eval"
    models = (str(tiny_folder), adapter)
    subprocess.run(evaluation(whole, *models), check=True, capture_output=True, timeout=300)
    every = samples(whole)
    assert len(every) == 2 * 16 * 4 * 2
    for count in (1, len(every) // 2 + 1):
        kill_after(evaluation(broken, *models), broken, count)
        assert samples(broken).items() < every.items()
    subprocess.run(evaluation(broken, *models), check=True, capture_output=True, timeout=300)
    assert samples(broken) == every
    assert scores(broken) == scores(whole) and len(scores(whole)) == 2
    for results in scores(whole).values():
        assert {row["budget"] for row in results} == {3, 6}
        labels = {row["labels"] for row in results if row["language"] == "ibo"}
        assert labels == {"upstream", "corrected"}
    compared = compare([broken])
    assert {row["language"] for row in compared["comparisons"]} >= {*SIXTEEN, "all"}
    page = write_report([tmp_path / "both"], tmp_path / "report.html")
    assert "afrimgsm" in page.read_text("utf-8")
