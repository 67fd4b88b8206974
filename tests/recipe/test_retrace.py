"""Traces from checkpoints: the weights of each, the teacher of the run, the same problems."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from opsd.cli.commands import main
from opsd.recipe import schema as recipes
from opsd.recipe.retrace import retrace
from opsd.recipe.train import train
from opsd.runs.files import read_jsonl
from opsd.types import UserError


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    """A run of four steps with a LoRA adapter, an EMA teacher and two checkpoints."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    recipe = recipes.parse(
        {
            "model": {"name": str(tiny_folder), "lora": {"r": 4, "lora_alpha": 8}},
            "method": {
                "name": "opsd",
                "signal": {"teacher": {"weights": {"type": "ema", "decay": 0.5}}},
            },
            "data": {"source": "miniature", "language": ["swa", "yor"], "limit": 8, "dev": 4},
            "sampling": {"max_completion_length": 6, "temperature": 1.0},
            "train": {
                "max_steps": 4,
                "per_device_train_batch_size": 4,
                "gradient_accumulation_steps": 1,
                "gradient_checkpointing": False,
                "learning_rate": 1e-2,
                "save_steps": 2,
                "eval_samples": 1,
                "trace_steps": 2,
                "use_cpu": True,
                "collapse": "ignore",
            },
        }
    )
    train(recipe, folder)
    return folder


def traces(run: Path, step: int) -> list[dict[str, Any]]:
    return list(read_jsonl(run / "traces" / f"checkpoint-{step}.jsonl"))


def test_the_same_problems_by_the_weights_of_every_checkpoint(
    run: Path, tiny_folder: Path, tokenizer
):
    from peft import PeftModel

    before = {file: file.read_bytes() for file in run.rglob("*.jsonl")}
    retrace(run, [4, 0, 2], 3)
    assert all(file.read_bytes() == content for file, content in before.items())
    asked = [[row["problem"] for row in traces(run, step)] for step in (0, 2, 4)]
    assert asked[0] == asked[1] == asked[2] and len(set(asked[0])) == 3
    assert {row["language"] for row in traces(run, 0)} == {"swa", "yor"}
    for step in (0, 2, 4):
        model: Any = AutoModelForCausalLM.from_pretrained(tiny_folder)
        if step:
            model = PeftModel.from_pretrained(model, run / f"checkpoint-{step}")
        row = traces(run, step)[0]
        assert row["step"] == step
        ids = [*row["prompt_ids"], *row["completion_ids"]]
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, len(row["prompt_ids"]) - 1 : -1]
        logp = logits[:, : len(tokenizer)].log_softmax(-1)
        own = logp.gather(-1, torch.tensor(row["completion_ids"]).unsqueeze(-1)).squeeze(-1)
        assert torch.allclose(torch.tensor(row["readers"][0]["logp"]), own, atol=1e-4), step


def test_a_checkpoint_says_what_training_said(run: Path):
    """At the step of a checkpoint the traces of training come from the same weights."""
    retrace(run, [2], 1)
    (again,) = traces(run, 2)
    during = [row for row in read_jsonl(run / "traces" / "rank0.jsonl") if row["step"] == 2]
    assert during[0].keys() == again.keys()
    ends = [row["readers"][1]["weights"] for row in (during[0], again)]
    assert ends == ["ema", "ema"]


def test_a_checkpoint_that_is_not_there(run: Path, tmp_path: Path):
    with pytest.raises(UserError, match="no checkpoint 3; --checkpoint may be: 0, 2, 4"):
        retrace(run, [2, 3], 1)
    half = run / "checkpoint-3"
    half.mkdir()
    (half / "trainer_state.json").write_text("{")
    with pytest.raises(UserError, match="no whole checkpoint 3; --checkpoint may be: 0, 2, 4"):
        retrace(run, [3], 1)
    shutil.rmtree(half)
    with pytest.raises(UserError, match=r"has no recipe\.yaml"):
        retrace(tmp_path, [0], 1)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    """Runs `opsd inspect`: exit code, standard output, standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["opsd", "inspect", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        shown = capfd.readouterr()
        return int(stop.value.code or 0), shown.out.strip(), shown.err

    return run


def test_the_command(run: Path, tmp_path: Path, command):
    output = tmp_path / "page.html"
    code, out, _ = command(run, "--checkpoint", "0,4", "--problems", 2, "--output", output)
    assert (code, out) == (0, str(output)) and output.read_text("utf-8").count("<script") == 2
    assert len(traces(run, 4)) == 2
    for arguments, told in [
        ((tmp_path,), "has no traces"),
        ((run, "--steps", "9"), "no trace of step 9"),
        ((run, "--steps", "all"), "write steps, as in 1,101"),
        ((run, "--checkpoint", "-1"), "write steps, as in 0,100"),
        ((run, "--checkpoint", "7"), "no checkpoint 7"),
    ]:
        code, out, error = command(*arguments)
        assert (code, out) == (2, "") and told in error and error.count("\n") == 1, error
