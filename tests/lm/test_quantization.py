"""A base in few bits under an adapter: it is trained, saved, and read again."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from peft import LoraConfig
from tests.arrange import config, problems

from opsd import methods
from opsd.lm.loading import load_model
from opsd.lm.parameters import trainable
from opsd.lm.sharding import local
from opsd.recipe import schema as recipe
from opsd.teacher.copies import Unchanged
from opsd.training.trainer import OPSDTrainer
from opsd.types import UserError

LORA = {"r": 4, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}


@pytest.fixture
def bitsandbytes():
    pytest.importorskip("bitsandbytes", exc_type=ImportError)


@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_two_steps_move_the_adapter_alone(bits, tiny_folder, tmp_path, bitsandbytes):
    trainer = OPSDTrainer(
        str(tiny_folder),
        methods.opsd(),
        config(tmp_path, model_init_kwargs={"quantization": bits}, learning_rate=1e-2),
        train_dataset=problems(8),
        peft_config=LoraConfig(**LORA),
    )
    parameters = dict(trainer.model.named_parameters())
    before = {name: local(p).clone() for name, p in parameters.items()}
    packed = [n for n, p in parameters.items() if p.dtype in (torch.uint8, torch.int8)]
    assert len(packed) == 14  # the linear layers of two blocks
    assert all(isinstance(keeper, Unchanged) for keeper in trainer.weights.values())
    trainer.train()
    moved = {name for name, p in parameters.items() if not p.equal(before[name])}
    assert moved and moved <= trainable(trainer.model).keys()
    assert all("lora_" in name for name in moved)
    rows = [row for row in trainer.state.log_history if "loss" in row]
    assert len(rows) == 2 and all(row["loss"] > 0 and row["grad_norm"] > 0 for row in rows)
    trainer.save_model(str(tmp_path / "model"))
    again = load_model(str(tmp_path / "model"))
    saved = {n: p for n, p in again.named_parameters() if "lora_" in n}
    assert all(parameters[name].equal(p) for name, p in saved.items())


def test_quantized_weights_are_not_trained(tiny_folder, tmp_path):
    settings = config(tmp_path, model_init_kwargs={"quantization": "4bit"})
    with pytest.raises(UserError, match="add 'lora'"):
        OPSDTrainer(str(tiny_folder), methods.opsd(), settings, train_dataset=problems(8))


def test_the_missing_package_is_named(tiny_folder, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"\[qlora\]"):
        load_model(str(tiny_folder), quantization="4bit")


def test_a_recipe_names_the_bits():
    model = {"name": "miniature", "lora": {}, "quantization": "4bit"}
    known = {"method": "opsd", "data": {"source": "miniature"}}
    assert recipe.parse({"model": model, **known}).model.options == {"quantization": "4bit"}
    with pytest.raises(UserError, match="quantization"):
        recipe.parse({"model": model | {"quantization": "3bit"}, **known})
