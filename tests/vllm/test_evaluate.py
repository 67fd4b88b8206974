"""Evaluation with vLLM: the same command, folder and table."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from opsd.cli.commands import app
from opsd.runs.files import read_jsonl

pytest.importorskip("vllm", reason="vllm is not installed: it has an environment of its own")


def test_greedy_answers_are_those_of_transformers(tmp_path: Path, tiny_folder):
    how = ["--data", "miniature", "--language", "swa", "--limit", "3", "--samples", "2"]
    how += ["--budget", "8,16", "--temperature", "0"]
    texts = []
    for engine in ("hf", "vllm"):
        there = tmp_path / engine
        where = ["--engine", engine, "--output", str(there)]
        CliRunner().invoke(
            app, ["evaluate", str(tiny_folder), *how, *where], catch_exceptions=False
        )
        (file,) = there.glob("*/*/samples.jsonl")
        rows = sorted(read_jsonl(file), key=lambda row: (row["problem"], row["sample"]))
        texts.append([row["completion"] for row in rows])
    assert texts[0] == texts[1] and len(texts[0]) == 6
