"""Export: one folder, whole or not there, that the libraries load without ours."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import (
    AdaLoraConfig,
    AutoPeftModelForCausalLM,
    IA3Config,
    LoHaConfig,
    LoraConfig,
    OFTConfig,
    VeraConfig,
)
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tests.arrange import small_recipe
from transformers import AutoModelForCausalLM, AutoTokenizer

from opsd import methods
from opsd.evaluate.prompt_protocol import prompt_protocol
from opsd.lm.loading import load_model, load_tokenizer, with_adapter
from opsd.publish.export import export
from opsd.recipe.schema import parse
from opsd.recipe.train import train
from opsd.types import UserError

IDS = torch.tensor([[1, 2, 3, 4, 5, 6]])
ADAPTER = {"adapter_config.json", "adapter_model.safetensors"}
TOKENIZER = {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}


def save_adapter(base: str, folder: Path, std: float = 0.1) -> Path:
    """An adapter that has learned something: `std` of its second factor, which starts at zero."""
    lora = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules="all-linear")
    model = with_adapter(load_model(base), lora, seed=0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=std)
    model.save_pretrained(folder)
    load_tokenizer(base).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapter(tmp_path_factory, tiny_folder) -> Path:
    return save_adapter(str(tiny_folder), tmp_path_factory.mktemp("adapters") / "lora")


@pytest.fixture(scope="module")
def half_base(tmp_path_factory, tiny_folder) -> str:
    """The tiny model in bfloat16, as real checkpoints are."""
    folder = tmp_path_factory.mktemp("half")
    load_model(str(tiny_folder), dtype="bfloat16").save_pretrained(folder)
    load_tokenizer(str(tiny_folder)).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_folder) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    recipe = small_recipe({"name": str(tiny_folder)}, "copsd", "swa", max_steps=1)
    train(parse(recipe), folder)
    return folder


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(IDS).logits.float()


def names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


def test_a_merged_model_is_the_base_under_its_adapter(tmp_path, adapter, tiny_folder):
    whole = export(adapter, tmp_path / "out", max_shard="100KB")
    assert (whole / "model.safetensors.index.json").is_file()
    assert names(whole) >= TOKENIZER | {"config.json", "generation_config.json", "README.md"}
    assert not names(whole) & ADAPTER and not list(tmp_path.glob("*.part"))
    merged = logits(AutoModelForCausalLM.from_pretrained(whole))
    on = logits(load_model(str(adapter)))
    assert (merged - on).abs().max() < 1e-5
    assert (merged - logits(load_model(str(tiny_folder)))).abs().max() > 1e-2
    assert AutoTokenizer.from_pretrained(whole).chat_template
    assert all(path.suffix != ".bin" for path in whole.iterdir())


def test_a_merged_model_keeps_the_numbers_of_its_base(tmp_path, half_base, capsys):
    adapter = save_adapter(half_base, tmp_path / "lora")
    whole = export(adapter, tmp_path / "out")
    with safe_open(whole / "model.safetensors", "pt") as file:
        assert {file.get_tensor(key).dtype for key in file.keys()} == {torch.bfloat16}  # noqa: SIM118
    assert json.loads((whole / "config.json").read_text())["dtype"] == "bfloat16"
    on = logits(load_model(str(adapter), dtype="float32"))
    kept = logits(load_model(str(whole), dtype="float32"))
    assert (kept - on).abs().max() < 0.02 * (on - logits(load_model(half_base))).abs().max()
    assert "rounds away" not in capsys.readouterr().err


def test_what_is_too_small_for_the_bases_numbers_is_said_and_can_be_kept(
    tmp_path, half_base, capsys
):
    """bfloat16 has eight bits: a change below a two-hundredth of a weight is lost on it."""
    adapter = save_adapter(half_base, tmp_path / "lora", std=1e-4)
    export(adapter, tmp_path / "out")
    assert "bfloat16 rounds away part of the training" in capsys.readouterr().err
    whole = export(adapter, tmp_path / "float32", dtype="float32")
    assert "rounds away" not in capsys.readouterr().err
    on = logits(load_model(str(adapter), dtype="float32"))
    off = logits(load_model(half_base, dtype="float32"))
    learned = (on - off).abs().max()
    assert (logits(load_model(str(whole))) - on).abs().max() < 1e-2 * learned
    assert (logits(load_model(str(tmp_path / "out"), dtype="float32")) - on).abs().max() > (
        0.1 * learned
    )


def test_an_exported_adapter_is_pefts_two_files_with_tokenizer_and_card(tmp_path, adapter):
    folder = export(adapter, tmp_path / "out", merge=False)
    assert names(folder) == ADAPTER | TOKENIZER | {"README.md"}
    loaded = logits(AutoPeftModelForCausalLM.from_pretrained(folder))
    torch.testing.assert_close(loaded, logits(load_model(str(adapter))))
    assert "library_name: peft" in (folder / "README.md").read_text()


def test_an_adapter_of_a_built_in_model_is_exported_for_every_installation(tmp_path):
    adapter = save_adapter("miniature", tmp_path / "lora")
    folder = export(adapter, tmp_path / "out", merge=False)
    about = json.loads((folder / "adapter_config.json").read_text())
    assert about["base_model_name_or_path"] == "miniature"
    torch.testing.assert_close(logits(load_model(str(folder))), logits(load_model(str(adapter))))


def test_no_path_of_this_machine_is_exported(tmp_path, adapter, tiny_folder):
    whole = export(adapter, tmp_path / "out")
    texts = [path for path in whole.iterdir() if path.suffix in {".json", ".md", ".jinja"}]
    assert len(texts) > 4
    for path in texts:
        text = path.read_text("utf-8")
        assert str(tiny_folder) not in text and str(adapter) not in text, path.name


def test_an_adapter_whose_base_is_on_this_machine_is_not_for_others(tmp_path, adapter):
    with pytest.raises(UserError, match="nobody else could load it"):
        export(adapter, tmp_path / "out", merge=False, repository="someone/model")
    assert not (tmp_path / "out").exists()


LINEAR = {"task_type": "CAUSAL_LM", "target_modules": "all-linear"}
KINDS = {
    "DoRA": LoraConfig(**LINEAR, r=2, use_dora=True),
    "rsLoRA": LoraConfig(**LINEAR, r=2, use_rslora=True),
    "PiSSA": LoraConfig(**LINEAR, r=2, init_lora_weights="pissa"),
    "with a layer trained whole": LoraConfig(**LINEAR, r=2, modules_to_save=["norm"]),
    "IA3": IA3Config(task_type="CAUSAL_LM", target_modules=["k_proj"], feedforward_modules=[]),
    "OFT": OFTConfig(**LINEAR),
    "VeRA": VeraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], r=2),
    "LoHa": LoHaConfig(**LINEAR, r=2),
    "AdaLoRA": AdaLoraConfig(**LINEAR, total_step=10),
}


@pytest.mark.parametrize("kind", KINDS)
def test_other_adapters_load_and_merge(tmp_path, tiny_folder, kind):
    model = with_adapter(load_model(str(tiny_folder)), KINDS[kind], seed=0)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn_like(parameter)
    model.save_pretrained(tmp_path / "adapter")
    on = logits(model)
    torch.testing.assert_close(logits(load_model(str(tmp_path / "adapter"))), on)
    merged = logits(load_model(str(export(tmp_path / "adapter", tmp_path / "out"))))
    torch.testing.assert_close(merged, on, rtol=1e-4, atol=1e-4)
    assert (on - logits(load_model(str(tiny_folder)))).abs().max() > 1e-3


@pytest.mark.filterwarnings("ignore:Model .*`tie", "ignore:Setting `save_embedding_layers`")
def test_an_adapter_that_cannot_be_merged_is_not(tmp_path, tiny_folder):
    """On tied embeddings: merged, it would change the output head as well."""
    model = load_model(str(tiny_folder))
    model = with_adapter(model, LoraConfig(r=2, target_modules=["embed_tokens"]), seed=0)
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter)
    model.save_pretrained(tmp_path / "lora")
    with pytest.raises(UserError, match="is another model"):
        export(tmp_path / "lora", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    folder = export(tmp_path / "lora", tmp_path / "adapter", merge=False)
    torch.testing.assert_close(logits(load_model(str(folder))), logits(model))


def test_a_whole_model_is_exported_as_it_is(tmp_path, tiny_folder):
    whole = export(tiny_folder, tmp_path / "out", dtype="bfloat16", max_shard="100KB")
    copy = AutoModelForCausalLM.from_pretrained(whole)
    assert copy.dtype == torch.bfloat16
    base = load_model(str(tiny_folder), dtype="bfloat16")
    torch.testing.assert_close(logits(copy), logits(base))
    with pytest.raises(UserError, match="no adapter to export"):
        export(tiny_folder, tmp_path / "other", merge=False)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"max_shard": "big"}, "as in 5GB"),
        ({"dtype": "int8"}, "write float32"),
        ({"dtype": "typo"}, "write float32"),
    ],
)
def test_wrong_options_leave_nothing_behind(tmp_path, adapter, options, told):
    with pytest.raises(UserError, match=told):
        export(adapter, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_name_that_is_nothing_is_one_line(tmp_path):
    with pytest.raises(UserError, match="neither a folder here"):
        export("no/such/model", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten(tmp_path, adapter):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "note.txt").write_text("mine")
    with pytest.raises(UserError, match="exists already"):
        export(adapter, tmp_path / "out")
    assert names(tmp_path / "out") == {"note.txt"}


@pytest.mark.parametrize("part", [".", "model", "checkpoint-1"])
def test_a_run_is_exported_with_its_card(run, tmp_path, part):
    whole = export(run / part, tmp_path / "out", repository="someone/m")
    text = (whole / "README.md").read_text()
    assert "method copsd" in text and "arxiv.org/abs/2605.09548" in text and "# m\n" in text
    # It goes on being asked as it was in training, wherever it is.
    asked = prompt_protocol([str(whole)], None, False, None)
    assert asked.prompt == methods.copsd().student and asked.languages == ("swa",)
    assert str(tmp_path) not in (whole / "recipe.yaml").read_text()
    again = export(whole, tmp_path / "again")
    assert (again / "recipe.yaml").read_text() == (whole / "recipe.yaml").read_text()
    name = "model" if part == "." else part
    merged, on = load_model(str(whole)), load_model(str(run / name))
    assert (logits(merged) - logits(on)).abs().max() < 1e-5
    assert names(export(run / part, tmp_path / "lora", merge=False)) >= ADAPTER | TOKENIZER


def test_a_run_without_a_model_yet_says_so(tmp_path):
    (tmp_path / "metrics.jsonl").touch()
    with pytest.raises(UserError, match="has no model yet"):
        export(tmp_path, tmp_path / "out")


KILLED = """
import os, signal, sys
import opsd.publish.export
opsd.publish.export.write_atomically = lambda *args: os.kill(os.getpid(), signal.SIGKILL)
opsd.publish.export.export(sys.argv[1], opsd.publish.export.Path(sys.argv[2]))
"""


def test_a_kill_leaves_nothing_that_looks_complete(tmp_path, adapter):
    out = tmp_path / "out"
    killed = subprocess.run([sys.executable, "-c", KILLED, str(adapter), str(out)], check=False)
    assert killed.returncode == -signal.SIGKILL
    (left,) = tmp_path.glob("out.*.part")
    assert not out.exists() and (left / "draft" / "model.safetensors").is_file()
    export(adapter, out)
    assert (out / "README.md").is_file() and list(tmp_path.glob("*.part")) == [left]


def test_nothing_of_the_users_is_taken_away(tmp_path, adapter, monkeypatch):
    theirs = tmp_path / "out.part" / "thesis.tex"
    theirs.parent.mkdir()
    theirs.write_text("years of work")
    export(adapter, tmp_path / "out")
    monkeypatch.setattr("opsd.publish.export.write_atomically", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export(adapter, tmp_path / "other")
    assert names(tmp_path) == {"out", "out.part"} and theirs.read_text() == "years of work"


def test_an_exported_folder_is_as_open_as_any_other(tmp_path, adapter):
    (tmp_path / "usual").mkdir()
    whole = export(adapter, tmp_path / "out")
    assert whole.stat().st_mode == (tmp_path / "usual").stat().st_mode


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
@pytest.mark.parametrize("merge", [True, False])
def test_numbers_that_are_none_are_not_exported(tmp_path, adapter, number, merge):
    broken = shutil.copytree(adapter, tmp_path / "broken")
    weights = load_file(broken / "adapter_model.safetensors")
    name = next(iter(weights))
    weights[name][0, 0] = number
    save_file(weights, broken / "adapter_model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="NaN or infinite values"):
        export(broken, tmp_path / "out", merge=merge)
    assert names(tmp_path) == {"broken"}


def test_a_merge_that_its_numbers_cannot_hold_is_refused(tmp_path, tiny_folder):
    adapter = save_adapter(str(tiny_folder), tmp_path / "lora", std=1e7)
    with pytest.raises(UserError, match=r"stored in torch.float16.*NaN or infinite.*float32"):
        export(adapter, tmp_path / "out", dtype="float16")
