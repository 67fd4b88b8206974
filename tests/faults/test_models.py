"""Models that would fail at their first checkpoint: mended, or refused before the first step."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig, get_peft_model
from tests.arrange import config, gap, problems
from tests.faults.test_folders import recipe

from opsd import methods
from opsd.lm.loading import load_model
from opsd.methods.parsing import method
from opsd.publish.export import export
from opsd.recipe.train import train
from opsd.teacher.weights import EMA, Frozen, Live, Snapshot
from opsd.training.trainer import OPSDTrainer
from opsd.types import UserError


def lora() -> LoraConfig:
    return LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear")


@pytest.fixture
def greedy(tmp_path: Path, tiny_folder) -> Path:
    """A model whose generation_config.json Transformers reads, and refuses to write again."""
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "greedy"))
    file = folder / "generation_config.json"
    content = json.loads(file.read_text()) | {"do_sample": False, "temperature": 0.9}
    file.write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("adapter", [None, lora()], ids=["whole", "lora"])
def test_a_generation_config_that_cannot_be_written_again_is_mended(
    tmp_path, greedy, adapter, capsys
):
    run = tmp_path / "run"
    args = config(run, max_steps=1, save_strategy="steps", save_steps=1)
    trainer = OPSDTrainer(str(greedy), methods.opsd(), args, problems(4), peft_config=adapter)
    assert "do_sample is set to true in what is saved" in capsys.readouterr().err
    trainer.train()
    trainer.save_model(str(run / "model"))
    export(run / "model", tmp_path / "out")
    load_model(str(tmp_path / "out"))


def test_a_model_of_the_users_own_is_mended_too(tmp_path, greedy, tokenizer):
    model = load_model(str(greedy))
    model.generation_config.do_sample, model.generation_config.temperature = False, 0.9
    args = config(tmp_path / "run", max_steps=1, save_strategy="steps", save_steps=1)
    trainer = OPSDTrainer(model, methods.opsd(), args, problems(4), processing_class=tokenizer)
    trainer.train()
    assert (tmp_path / "run" / "checkpoint-1" / "model.safetensors").is_file()


def test_adapters_that_are_saved_elsewhere_are_refused(tmp_path, tiny_folder, tokenizer):
    model = get_peft_model(load_model(str(tiny_folder)), lora(), adapter_name="mine")
    with pytest.raises(UserError, match=r"adapter\(s\) mine: there must be exactly one"):
        args = config(tmp_path)
        OPSDTrainer(model, methods.opsd(), args, problems(4), processing_class=tokenizer)


def test_when_a_teacher_moves():
    assert [EMA().moves(step, 2) for step in (1, 2, 3, 4)] == [False, True, False, True]
    assert all(EMA(per="step").moves(step, 2) for step in (1, 2, 3))
    assert all(x.moves(1, 2) for x in (Frozen(), Live(), Snapshot()))
    assert all(EMA().moves(step, 1) for step in (1, 2, 3))


@pytest.mark.parametrize("per", ["batch", "step"])
def test_an_average_under_reuse_moves_as_often_as_it_says(tmp_path, tiny_folder, per):
    weights: dict[str, Any] = {"type": "ema", "decay": 0.5, "per": per}
    teacher = {"context": {"type": "solution"}, "weights": weights}
    distill = {"type": "distill", "teacher": teacher}
    chosen = method({"name": "opsd", "reuse": 2, "signal": distill})
    run = OPSDTrainer(str(tiny_folder), chosen, config(tmp_path, max_steps=1), problems(4))
    (keeper,) = run.weights.values()
    start = {name: value.clone() for name, value in keeper.weights.items()}
    run.train()
    assert (gap(keeper.weights, start) > 0) == (per == "step")


def test_an_average_that_moves_per_batch_resumes_equal(tmp_path, tiny_folder):
    weights: dict[str, Any] = {"type": "ema", "decay": 0.5}
    teacher = {"context": {"type": "solution"}, "weights": weights}
    chosen = method({"name": "opsd", "reuse": 2, "signal": {"type": "distill", "teacher": teacher}})
    own = recipe(tiny_folder, max_steps=3).model_copy(update={"method": chosen})
    longer = recipe(tiny_folder, max_steps=5).model_copy(update={"method": chosen})
    train(own, tmp_path / "run")
    train(longer, tmp_path / "run", resume=True)
    train(longer, tmp_path / "whole")
    from tests.faults.test_folders import assert_equal_ends

    assert_equal_ends(tmp_path / "run", tmp_path / "whole")
