"""GGUF files: the numbers that are in them, a tokenizer of their own, and what is refused."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from peft import LoraConfig, PeftModel
from tests.arrange import config, gap, problems, small_recipe, weights_of
from tests.gguf_files import TOKENS, llama, write_gguf
from transformers import AutoModelForCausalLM, AutoTokenizer

from opsd import methods
from opsd.evaluate.command import evaluate_models
from opsd.lm import gguf
from opsd.lm.loading import load_model, load_tokenizer, with_adapter
from opsd.preview.rows import preview
from opsd.publish.export import export
from opsd.recipe.schema import dump, load, parse
from opsd.recipe.train import train
from opsd.training.trainer import OPSDTrainer
from opsd.types import UserError

IDS = torch.tensor([[1, 72, 101, 10, 200, 7]])


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(path, llama(), Kind.Q8_0)
    return path


def logits(model: Any, ids: torch.Tensor = IDS) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(ids).logits.float()


def refused(name: str | Path, **options: Any) -> str:
    with pytest.raises(UserError) as error:
        load_model(str(name), **options)
    assert "\n" not in str(error.value)
    return str(error.value)


# The numbers


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", [Kind.F32, Kind.F16, Kind.Q8_0, Kind.Q4_1])
def test_logits_are_those_of_the_numbers_in_the_file(tmp_path, kind, tied):
    drawn = llama(tied)
    before = logits(drawn)
    expected = logits(write_gguf(tmp_path / "x.gguf", drawn, kind))
    model = load_model(str(tmp_path / "x.gguf"))
    assert (logits(model) - expected).abs().max() < 1e-5
    rounding = (expected - before).abs().max()
    assert rounding == 0 if kind is Kind.F32 else rounding > 1e-5
    assert model.dtype == torch.float32 and model.config.tie_word_embeddings is tied
    assert getattr(model.config, "quantization_config", None) is None


def test_the_number_type_is_the_one_that_is_asked_for(file):
    assert load_model(str(file), dtype="bfloat16").dtype == torch.bfloat16
    assert load_model(str(file), bf16=True).dtype == torch.bfloat16
    assert load_model(str(file), bf16=True, trained=True).dtype == torch.float32
    assert load_model(str(file), dtype="auto").dtype == torch.float32


def test_a_saved_model_is_an_ordinary_one(tmp_path, file):
    model = load_model(str(file))
    model.save_pretrained(tmp_path)
    load_tokenizer(str(file)).save_pretrained(tmp_path)
    assert "gguf" not in (tmp_path / "config.json").read_text()
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path)), logits(model))
    again, own = AutoTokenizer.from_pretrained(tmp_path), load_tokenizer(str(file))
    for text in ("the 12 a 345", "\n\n12. Ĝ", "<|im_start|>user\nthe<|im_end|>"):
        assert again(text)["input_ids"] == own(text)["input_ids"]


# The tokenizer


def test_texts_are_split_and_begun_as_the_file_says(tmp_path, file):
    tokenizer = load_tokenizer(str(file))
    ids = tokenizer("\n\n12 the", add_special_tokens=False)["input_ids"]
    assert [TOKENS[i] for i in ids] == ["ĊĊ", "1", "2", "Ġthe"]
    assert tokenizer.eos_token_id == tokenizer.pad_token_id == 2
    said = tokenizer.apply_chat_template(
        [{"role": "user", "content": "a"}], add_generation_prompt=True, tokenize=False
    )
    assert said == "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer("a")["input_ids"][0] != 1
    write_gguf(tmp_path / "begun.gguf", llama(), begins=True, pre="default")
    begun = load_tokenizer(str(tmp_path / "begun.gguf"))
    ids = begun("\n\n12")["input_ids"]
    assert [TOKENS[i] for i in ids] == ["<|im_start|>", "Ċ", "Ċ", "1", "2"]  # as GPT-2 splits
    begun.save_pretrained(tmp_path / "saved")
    assert AutoTokenizer.from_pretrained(tmp_path / "saved")("\n\n12")["input_ids"] == ids


def test_the_tokenizer_beside_a_file_is_not_the_file_s(tmp_path, file, tokenizer):
    shutil.copy(file, tmp_path)
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 77}')
    found = load_tokenizer(str(tmp_path / file.name))
    assert found.get_vocab() == load_tokenizer(str(file)).get_vocab() != tokenizer.get_vocab()
    assert load_model(str(tmp_path / file.name)).generation_config.eos_token_id == 2


# Names


def test_a_file_of_a_folder_is_one_name(file):
    content = {"method": "opsd", "data": {"source": "miniature"}}
    model = {"name": str(file.parent), "gguf_file": file.name}
    recipe = parse({**content, "model": model})
    assert recipe.model.name == str(file) and recipe.model.options == {}
    assert "gguf_file: null" in dump(recipe)
    ours = load_model(str(file.parent), gguf_file=file.name)
    assert gap(weights_of(ours), weights_of(load_model(str(file)))) == 0
    hub = parse({**content, "model": {"name": "me/it@v1", "gguf_file": "q/x.gguf"}})
    assert hub.model.name == "me/it/q/x.gguf@v1"
    with pytest.raises(UserError, match="is already a file's name"):
        parse({**content, "model": {"name": str(file), "gguf_file": "x.gguf"}})
    with pytest.raises(UserError, match="not a GGUF file by its name"):
        parse({**content, "model": {"name": "a/b", "gguf_file": "model.safetensors"}})


def test_a_child_recipe_of_another_model_has_another_file(tmp_path):
    parent = "model: {name: a/b, gguf_file: x.gguf}\nmethod: opsd\ndata: {source: miniature}\n"
    (tmp_path / "parent.yaml").write_text(parent)
    (tmp_path / "child.yaml").write_text("extends: parent.yaml\nmodel: {name: c/d}\n")
    assert load(str(tmp_path / "parent.yaml")).model.name == "a/b/x.gguf"
    assert load(str(tmp_path / "child.yaml")).model.name == "c/d"


def test_a_file_on_the_hub_is_its_repository_and_its_path(monkeypatch, file):
    asked = []

    def download(repository: str, name: str, revision: str | None = None) -> str:
        asked.append((repository, name, revision))
        return str(file)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    model = load_model("me/it@v1", gguf_file="q/x.gguf")
    assert model.config._name_or_path == "me/it/q/x.gguf"
    assert load_tokenizer("me/it/q/x.gguf").vocab_size
    assert asked == [("me/it", "q/x.gguf", "v1"), ("me/it", "q/x.gguf", None)]


# What is refused


def test_a_file_that_is_not_there(tmp_path, file):
    for name in (tmp_path / "no.gguf", "no.gguf", "models/no.gguf", "./a/b/no.gguf"):
        assert f"'{name}': there is no such file" in refused(name)
        with pytest.raises(UserError, match="there is no such file"):
            evaluate_models([str(file), str(name)], data="miniature", output=tmp_path / "eval")
    assert not (tmp_path / "eval").exists()
    assert f"name one of them, as in {file}" in refused(file.parent)


def test_a_damaged_file_is_named(tmp_path, file):
    whole = file.read_bytes()
    for number, content in enumerate((b"", b"GGUF", whole[:200], whole[:-1000], b"x" * 400)):
        broken = tmp_path / f"{number}.gguf"
        broken.write_bytes(content)
        assert f"{broken} is damaged, or not a GGUF file" in refused(broken)
        with pytest.raises(UserError, match="is damaged"):
            load_tokenizer(str(broken))


def test_an_architecture_that_transformers_does_not_read(tmp_path):
    write_gguf(tmp_path / "x.gguf", llama(), architecture="rwkv7")
    message = refused(tmp_path / "x.gguf")
    assert str(tmp_path / "x.gguf") in message and "architecture rwkv7 is not supported" in message


def test_a_type_that_cannot_be_read(tmp_path, monkeypatch):
    more = {"counts": np.arange(64, dtype=np.int32)}
    write_gguf(tmp_path / "x.gguf", llama(), more=more)
    message = refused(tmp_path / "x.gguf")
    assert f"{tmp_path / 'x.gguf'}: 'counts' is in I32" in message and "such as Q8_0" in message


def test_a_weight_that_the_model_has_no_place_for(tmp_path):
    """Left out, it would be another model: as Llama 3's frequencies, or biases."""
    factors = np.ones(8, dtype=np.float32)
    write_gguf(tmp_path / "x.gguf", llama(), more={"rope_freqs.weight": factors})
    assert "weights, such as rope_freqs.weight, but" in refused(tmp_path / "x.gguf")
    bias = {"blk.0.attn_q.bias": np.ones(64, dtype=np.float32)}
    write_gguf(tmp_path / "y.gguf", llama(), more=bias)
    assert "such as blk.0.attn_q.bias" in refused(tmp_path / "y.gguf")
    further = {"blk.2.nextn.eh_proj.weight": np.ones((64, 64), dtype=np.float32)}
    write_gguf(tmp_path / "z.gguf", llama(), more=further)
    load_model(str(tmp_path / "z.gguf"))


def test_a_weight_that_is_missing(tmp_path):
    write_gguf(tmp_path / "x.gguf", llama(), without="model.layers.1.mlp.up_proj.weight")
    told = "own metadata: model.layers.1.mlp.up_proj.weight is missing"
    assert told in refused(tmp_path / "x.gguf")


def test_few_bits_twice(file):
    assert "convert it to a folder first" in refused(file, quantization="8bit")


def test_the_package_that_reads_them(monkeypatch, file):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *a: None if name == "gguf" else found(name, *a)
    )
    message = refused(file)
    assert str(file) in message and "pip install -e '.[gguf]'" in message


# Trained


def recipe(file: Path, **train_: Any) -> dict[str, Any]:
    model = {"name": str(file.parent), "gguf_file": file.name}
    return small_recipe(model, "opsd", "eng", **{"max_steps": 2, **train_})


@pytest.fixture(scope="module")
def run(tmp_path_factory, file) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(parse(recipe(file)), folder)
    return folder


def test_an_adapter_remembers_the_file(run, file):
    about = json.loads((run / "model" / "adapter_config.json").read_text())
    assert about["base_model_name_or_path"] == str(file)
    ours = load_model(str(run / "model"))
    base = load_model(str(file))
    assert (logits(ours) - logits(base)).abs().max() > 1e-4
    theirs = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name)
    assert torch.equal(logits(PeftModel.from_pretrained(theirs, run / "model")), logits(ours))


def test_a_resumed_run_ends_where_an_unbroken_one_does(tmp_path, run, file):
    half = tmp_path / "half"
    train(parse(recipe(file, max_steps=1)), half)
    train(parse(recipe(file)), half, resume=True)
    one, other = (load_model(str(folder / "model")) for folder in (run, half))
    assert gap(weights_of(one), weights_of(other)) == 0


def test_a_merged_export_loads_without_ours(tmp_path, run, file):
    whole = export(run, tmp_path / "out")
    merged = AutoModelForCausalLM.from_pretrained(whole)
    assert (logits(merged) - logits(load_model(str(run / "model")))).abs().max() < 1e-5
    assert merged.dtype == torch.float32
    assert AutoTokenizer.from_pretrained(whole).get_vocab() == load_tokenizer(str(file)).get_vocab()
    for text in ((whole / "README.md").read_text(), (whole / "recipe.yaml").read_text()):
        assert str(file.parent) not in text and file.name in text
    with pytest.raises(UserError, match="local path"):
        export(run, tmp_path / "shared", merge=False, repository="me/it")
    plain = export(str(file), tmp_path / "plain")
    assert torch.equal(
        logits(AutoModelForCausalLM.from_pretrained(plain)), logits(load_model(str(file)))
    )


def test_it_is_previewed_and_evaluated(tmp_path, run, file):
    seen = preview(parse(recipe(file)))
    assert seen["tokens"]["end"]["id"] == 2 and seen["limits"]["limit"] == 4096
    how = {"data": "miniature", "languages": ["eng"], "limit": 2, "samples": 1, "budgets": [6]}
    for model in (file, run / "model"):
        (told,) = evaluate_models([str(model)], **how, output=tmp_path / "eval")["results"]
        assert told["model"] == str(model) and told["mean_length"] == 6


def test_another_file_of_the_name_is_another_model_to_an_evaluation(tmp_path):
    how = {"data": "miniature", "languages": ["eng"], "limit": 2, "samples": 1, "budgets": [6]}
    write_gguf(tmp_path / "x.gguf", llama(), Kind.Q8_0)
    evaluate_models([str(tmp_path / "x.gguf")], **how, output=tmp_path / "eval")
    write_gguf(tmp_path / "x.gguf", llama(), Kind.Q4_1)
    with pytest.raises(UserError, match="other weights"):
        evaluate_models(
            [str(tmp_path / "x.gguf")], **{**how, "samples": 2}, output=tmp_path / "eval"
        )


def test_all_weights_are_trained_and_saved(tmp_path, file):
    trainer = OPSDTrainer(
        str(file.parent),
        methods.opsd(),
        config(tmp_path, model_init_kwargs={"gguf_file": file.name}, learning_rate=1e-3),
        train_dataset=problems(8),
    )
    trainer.train()
    trainer.save_model(str(tmp_path / "model"))
    trained = load_model(str(tmp_path / "model"))
    assert gap(weights_of(trained), weights_of(load_model(str(file)))) > 1e-5
    assert gap(weights_of(trained), weights_of(trainer.model)) == 0


def test_one_name_with_an_adapter(file):
    lora = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear")
    model = with_adapter(load_model(str(file)), lora, seed=0)
    assert model.peft_config["default"].base_model_name_or_path == str(file)
    assert gguf.joined(*gguf.place_of("me/it/x.gguf")) == "me/it/x.gguf"
