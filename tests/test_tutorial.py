"""The tutorial with a real pretrained model, SmolLM2-135M-Instruct, in the place of Qwen3."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file
from tests.arrange import metrics
from tests.page_runs import MODEL, ROOT, SHORT, ended_well, run_pages
from tests.pretrained import fetched

from opsd.runs.files import read_jsonl

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ran(tmp_path_factory) -> Path:
    """The folder in which the page's blocks have run."""
    model, folder = fetched("smollm2"), tmp_path_factory.mktemp("pages")
    instead = {
        MODEL: str(model),
        "max_new_tokens=256": "max_new_tokens=8",
        " --push ME/mine --private": "",  # its base is a folder of this machine
    }
    offline = {"HF_HUB_OFFLINE": "1"}
    run_pages(folder, {ROOT / "docs" / "tutorial.md": SHORT}, instead, offline)
    return folder / "tutorial"


def test_every_block_runs(ran):
    ended_well(ran)


def test_it_learns_two_steps_of_eight_rollouts(ran):
    run = ran / "runs" / "mine"
    learned = [row for row in metrics(run) if "loss" in row]
    assert [row["step"] for row in learned] == [1, 2]
    assert all(row["loss"] > 0 and row["grad_norm"] > 0 for row in learned)
    assert sum(1 for _ in read_jsonl(run / "rollouts" / "rank0.jsonl")) == 16


def test_base_and_trained_model_are_evaluated_and_compared(ran):
    results = list((ran / "runs" / "mine" / "eval").glob("*/*/samples.jsonl"))
    assert [sum(1 for _ in read_jsonl(file)) for file in results] == [6, 6]
    said = (ran / "stdout.txt").read_text("utf-8")
    assert "$ opsd compare runs/mine/eval" in said


def test_pages_and_adapter_are_there(ran):
    run = ran / "runs" / "mine"
    for page in ("report.html", "inspect.html"):
        assert "</html>" in (run / page).read_text("utf-8")
    exported = load_file(ran / "mine-adapter" / "adapter_model.safetensors")
    trained = load_file(run / "model" / "adapter_model.safetensors")
    assert exported.keys() == trained.keys()
    assert all((exported[name] == trained[name]).all() for name in trained)
