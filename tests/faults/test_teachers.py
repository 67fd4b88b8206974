"""Another model as the teacher: loaded by the student's rules, with the student's tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.arrange import config, problems
from tests.conftest import save_tiny_model, tiny_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from opsd import methods
from opsd.lm.loading import (
    load_teacher,
    load_tokenizer,
    telling_texts,
    tokenized,
    told_apart,
)
from opsd.methods.parsing import method
from opsd.training.trainer import OPSDTrainer
from opsd.types import UserError


def taught_by(folder: Path, student: Path, output: Path) -> OPSDTrainer:
    weights = {"type": "external", "path": str(folder)}
    chosen = method({"name": "opsd", "signal": {"teacher": {"weights": weights}}})
    return OPSDTrainer(str(student), chosen, config(output, max_steps=1), problems(4))


@pytest.fixture
def teacher(tmp_path: Path, tokenizer) -> Path:
    return save_tiny_model(tmp_path / "teacher", tokenizer, hidden_size=32, num_hidden_layers=1)


def test_another_model_of_the_same_tokenizer_teaches(tmp_path, tiny_folder, teacher):
    run = taught_by(teacher, tiny_folder, tmp_path / "run")
    run.train()
    assert run.state.log_history[0]["divergence"] > 0.01


def test_another_tokenizer_is_refused_by_what_it_does(tmp_path, tiny_folder, teacher, tokenizer):
    file = teacher / "tokenizer.json"
    content = json.loads(file.read_text())
    vocabulary = content["model"]["vocab"]
    digits = sorted(t for t in vocabulary if t.isdigit())[:2]
    one, two = digits
    vocabulary[one], vocabulary[two] = vocabulary[two], vocabulary[one]
    file.write_text(json.dumps(content))
    assert len(load_tokenizer(str(teacher))) == len(tokenizer)
    with pytest.raises(UserError, match=r"has a different tokenizer from the student: '.*' is"):
        taught_by(teacher, tiny_folder, tmp_path / "run")


def test_a_special_token_that_only_the_student_has_is_named(tokenizer):
    bytes_only = Tokenizer(models.BPE())
    bytes_only.pre_tokenizer = pre_tokenizers.ByteLevel()
    other = PreTrainedTokenizerFast(tokenizer_object=bytes_only)
    texts = telling_texts(tokenizer)
    assert told_apart(tokenizer, tokenized(other, texts)) is not None
    assert told_apart(tokenizer, tokenized(tokenizer, texts)) is None


def test_fewer_padding_rows_are_no_matter_and_missing_ones_are(tmp_path, tokenizer):
    """A head may be padded less than the student's, as long as every token has a row."""
    tokenizer.save_pretrained(tmp_path)
    needed = max(tokenizer.get_vocab().values()) + 1
    for rows, fits in ((needed, True), (needed - 2, False)):
        model = tiny_model(rows - 5)
        model.save_pretrained(tmp_path)
        if fits:
            assert load_teacher(str(tmp_path), tokenizer, None) is not None
        else:
            with pytest.raises(UserError, match=f"logits for {rows} ids, but the tokenizer needs"):
                load_teacher(str(tmp_path), tokenizer, None)


@pytest.mark.parametrize("spoil", ["missing", "nan", "shape"])
def test_a_checkpoint_that_is_not_whole_is_refused(tmp_path, tiny_folder, teacher, spoil):
    file = teacher / "model.safetensors"
    weights: dict[str, Any] = load_file(file)
    name = "model.layers.0.mlp.up_proj.weight"
    if spoil == "missing":
        del weights[name]
    elif spoil == "nan":
        weights[name][0, 0] = torch.nan
    else:
        weights[name] = weights[name][:-1].contiguous()
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(UserError, match=r"layers.0.mlp.up_proj.weight"):
        taught_by(teacher, tiny_folder, tmp_path / "run")


def test_a_teacher_that_is_not_there_is_named(tmp_path, tiny_folder):
    with pytest.raises(UserError, match=r"cannot load the model '.*/nowhere'"):
        taught_by(tmp_path / "nowhere", tiny_folder, tmp_path / "run")


def test_a_built_in_model_may_teach_another(tmp_path):
    weights = {"type": "external", "path": "miniature"}
    chosen = method({"name": "opsd", "signal": {"teacher": {"weights": weights}}})
    OPSDTrainer("miniature", chosen, config(tmp_path, max_steps=1), problems(4)).train()
    assert methods.opsd() != chosen
