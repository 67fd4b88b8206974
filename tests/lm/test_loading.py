"""Loading: whole checkpoints and adapters, and what is refused rather than loaded in part."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import AutoPeftModelForCausalLM, LoraConfig, PeftModel
from safetensors.torch import load_file, save_file
from tests.arrange import gap, weights_of
from tests.conftest import tiny_model
from transformers import AutoModelForCausalLM

from opsd.lm.built_in import model_path
from opsd.lm.loading import (
    load_model,
    load_tokenizer,
    locate,
    reason,
    refuse_other_tokenizer,
    resolve,
    with_adapter,
)
from opsd.runs import checkpoint
from opsd.types import UserError

IDS = torch.tensor([[1, 2, 3, 4, 5, 6]])


def lora(**changes) -> LoraConfig:
    settings = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}
    return LoraConfig(task_type="CAUSAL_LM", **{**settings, **changes})


def save_adapter(base: str, folder: Path, **changes) -> Path:
    """An adapter that does something: its second factor starts at zero otherwise."""
    model = with_adapter(load_model(base), lora(**changes), seed=0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapter(tmp_path_factory, tiny_folder) -> Path:
    return save_adapter(str(tiny_folder), tmp_path_factory.mktemp("adapters") / "lora")


@pytest.fixture
def own(tmp_path, tiny_folder, adapter) -> Callable[[str], Path]:
    """A copy of the tiny model or of the adapter, to be spoilt."""

    def copy(which: str) -> Path:
        source = {"model": tiny_folder, "adapter": adapter}[which]
        return Path(shutil.copytree(source, tmp_path / which))

    return copy


def rewrite(folder: Path, change: Callable[[dict], dict]) -> None:
    """Changes the tensors of the one weights file in a folder."""
    (path,) = folder.glob("*.safetensors")
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(IDS).logits


def refused(name: str | Path, **options) -> str:
    """The one line that loading this raises."""
    with pytest.raises(UserError) as error:
        load_model(str(name), **options)
    assert "\n" not in str(error.value)
    return str(error.value)


# Whole checkpoints


def test_a_sharded_checkpoint_is_the_same_model(tmp_path, tiny_folder):
    model = load_model(str(tiny_folder))
    model.save_pretrained(tmp_path, max_shard_size="100KB")
    shards = list(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 2 and (tmp_path / "model.safetensors.index.json").is_file()
    assert gap(weights_of(model), weights_of(load_model(str(tmp_path)))) == 0
    sorted(shards)[1].unlink()
    assert "model-00002-of" in refused(tmp_path)


def test_a_cut_off_file_is_one_line(own):
    path = own("model") / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert "file not fully covered" in refused(path.parent)


def test_no_weight_is_drawn_at_random_in_place_of_one_that_is_missing(own):
    name = "model.layers.1.mlp.up_proj.weight"
    folder = own("model")
    rewrite(folder, lambda tensors: {k: t for k, t in tensors.items() if k != name})
    assert f"{name} is missing" in refused(folder)


def test_a_weight_of_another_shape_is_named(own):
    name = "model.layers.1.mlp.up_proj.weight"
    folder = own("model")
    rewrite(folder, lambda tensors: {**tensors, name: torch.zeros(3, 64)})
    assert f"{name} is (3, 64), not (128, 64)" in refused(folder)


def test_pickled_weights_are_refused_with_the_command_that_converts_them(own):
    folder = own("model")
    tensors = load_file(folder / "model.safetensors")
    torch.save(tensors, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    message = refused(folder)
    assert "pickled weights (pytorch_model.bin)" in message
    program = message.partition('python -c "')[2].removesuffix('"')
    exec(program, {})
    assert load_model(str(folder)).lm_head.weight.shape[1] == 64


def test_a_run_folder_points_to_its_model(tmp_path, own):
    (tmp_path / "run").mkdir()
    shutil.move(own("model"), tmp_path / "run" / "model")
    assert f"its trained model is {tmp_path / 'run' / 'model'}" in refused(tmp_path / "run")


CODE = """
from transformers import Qwen3Config, Qwen3ForCausalLM
from pathlib import Path
Path(__file__).with_name("ran").touch()
class OwnConfig(Qwen3Config):
    model_type = "own"
class OwnModel(Qwen3ForCausalLM):
    config_class = OwnConfig
"""


def test_code_in_a_repository_runs_only_when_it_is_asked_for(own, tmp_path, monkeypatch):
    from transformers import dynamic_module_utils

    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    folder = own("model")
    (folder / "own.py").write_text(CODE)
    settings = json.loads((folder / "config.json").read_text())
    classes = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    settings |= {"model_type": "own", "auto_map": classes}
    (folder / "config.json").write_text(json.dumps(settings))
    assert "runs only with model.trust_remote_code=true" in refused(folder)
    assert not list(tmp_path.rglob("ran"))
    model = load_model(str(folder), trust_remote_code=True)
    assert type(model).__name__ == "OwnModel" and list(tmp_path.rglob("ran"))


@pytest.mark.parametrize("name", ["eager", "sdpa"])
def test_the_attention_is_chosen(tiny_folder, name):
    model = load_model(str(tiny_folder), attn_implementation=name)
    assert model.config._attn_implementation == name


def test_an_attention_that_is_not_installed_is_one_line(tiny_folder):
    assert "FlashAttention2" in refused(tiny_folder, attn_implementation="flash_attention_2")
    assert "not supported" in refused(tiny_folder, attn_implementation="typo")


def test_numbers_of_the_weights(tmp_path, tiny_folder, adapter):
    """Trained weights are float32, whatever the checkpoint; what stays as it is keeps its type."""
    load_model(str(tiny_folder)).to(torch.float16).save_pretrained(tmp_path / "half")
    half = str(tmp_path / "half")
    assert load_model(half).dtype == torch.float16
    for bf16 in (False, True):
        assert load_model(half, trained=True, bf16=bf16).dtype == torch.float32
    assert load_model(half, bf16=True).dtype == torch.bfloat16
    assert load_model(half, bf16=True, dtype="float32").dtype == torch.float32
    continued = load_model(str(adapter), trained=True, bf16=True)
    trained = {p.dtype for p in continued.parameters() if p.requires_grad}
    frozen = {p.dtype for p in continued.parameters() if not p.requires_grad}
    assert trained == {torch.float32} and frozen == {torch.bfloat16}


# Adapters


def test_an_adapter_is_pefts_own(adapter, tiny_folder):
    """Whatever loads it, by whichever library: the same model, and not the base."""
    base = AutoModelForCausalLM.from_pretrained(tiny_folder)
    bare = logits(base)
    ours = logits(load_model(str(adapter)))
    torch.testing.assert_close(logits(PeftModel.from_pretrained(base, adapter)), ours)
    torch.testing.assert_close(logits(AutoPeftModelForCausalLM.from_pretrained(adapter)), ours)
    torch.testing.assert_close(logits(AutoModelForCausalLM.from_pretrained(adapter)), ours)
    assert (ours - bare).abs().max() > 1e-2
    about = json.loads((adapter / "adapter_config.json").read_text())
    assert about["base_model_name_or_path"] == str(tiny_folder)


def test_an_adapter_to_go_on_with_is_trainable_and_one_to_ask_is_not(adapter):
    asked, continued = load_model(str(adapter)), load_model(str(adapter), trained=True)
    assert not any(p.requires_grad for p in asked.parameters())
    names = {name for name, p in continued.named_parameters() if p.requires_grad}
    assert names and all("lora_" in name for name in names)
    assert gap(weights_of(asked), weights_of(continued)) == 0


def test_an_adapter_without_a_tokenizer_has_its_bases(adapter, tiny_folder):
    assert not (adapter / "tokenizer_config.json").exists()
    assert load_tokenizer(str(adapter)).get_vocab() == load_tokenizer(str(tiny_folder)).get_vocab()


def test_an_adapter_of_a_built_in_model_loads_in_another_installation(tmp_path):
    folder = save_adapter("miniature", tmp_path / "lora")
    here = logits(load_model(str(folder)))
    path = folder / "adapter_config.json"
    about = json.loads(path.read_text())
    assert about["base_model_name_or_path"] == str(model_path("miniature"))
    elsewhere = "/elsewhere/lib/python3.12/site-packages/opsd/miniature/models/miniature"
    for name in (elsewhere, "miniature"):
        path.write_text(json.dumps({**about, "base_model_name_or_path": name}))
        torch.testing.assert_close(logits(load_model(str(folder))), here)
        assert load_tokenizer(str(folder)).chat_template


def renamed(tensors: dict) -> dict:
    return {name.replace("layers", "blocks"): t for name, t in tensors.items()}


def without_one(tensors: dict) -> dict:
    return dict(list(tensors.items())[1:])


def with_a_layer_more(tensors: dict) -> dict:
    return tensors | {n.replace("layers.1", "layers.2"): t.clone() for n, t in tensors.items()}


def of_a_narrower_model(tensors: dict) -> dict:
    return {n: t[:, :32].clone() if "lora_A" in n else t for n, t in tensors.items()}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (renamed, "is missing"),
        (without_one, "is missing"),
        (lambda tensors: {}, "is missing"),
        (with_a_layer_more, "layers.2.mlp.down_proj.lora_A.weight has no place in it"),
        (of_a_narrower_model, "size mismatch for base_model.model.model.layers.0"),
    ],
)
def test_an_adapter_that_does_not_fit_is_an_error_and_never_the_base(own, change, told):
    folder = own("adapter")
    rewrite(folder, change)
    for options in ({}, {"trained": True}):
        message = refused(folder, **options)
        assert "does not fit" in message and told in message and len(message) < 700


def test_an_adapter_on_another_model_is_an_error(own, tmp_path):
    tiny_model(300, hidden_size=32).save_pretrained(tmp_path / "narrow")
    folder = own("adapter")
    path = folder / "adapter_config.json"
    about = json.loads(path.read_text()) | {"base_model_name_or_path": str(tmp_path / "narrow")}
    path.write_text(json.dumps(about))
    assert "size mismatch" in refused(folder)
    path.write_text(json.dumps({**about, "target_modules": ["query_key_value"]}))
    assert "query_key_value" in refused(folder)


def test_an_adapter_whose_base_is_gone_names_both(own, tmp_path):
    folder = own("adapter")
    path = folder / "adapter_config.json"
    about = json.loads(path.read_text())
    path.write_text(json.dumps({**about, "base_model_name_or_path": str(tmp_path / "gone")}))
    message = refused(folder)
    assert str(folder) in message and str(tmp_path / "gone") in message
    assert "neither a folder here" in message
    path.write_text(json.dumps({**about, "base_model_name_or_path": None}))
    assert "no base_model_name_or_path" in refused(folder)
    path.write_text(json.dumps({**about, "base_model_name_or_path": str(folder)}))
    assert "is an adapter, not a whole model" in refused(folder)


def test_an_adapters_folder_without_its_weights_is_an_error(own):
    folder = own("adapter")
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    assert "no adapter_model.safetensors" in refused(folder)


@pytest.mark.parametrize(
    "content", ['{"r": 4}', "[]", '{"peft_type": "NONE", "base_model_name_or_path": "x"}']
)
def test_a_configuration_that_describes_no_adapter_is_one_line(own, content):
    folder = own("adapter")
    (folder / "adapter_config.json").write_text(content)
    assert "does not describe an adapter that PEFT knows" in refused(folder)


# Names


def test_a_revision_may_follow_the_name(tmp_path):
    assert locate("Qwen/Qwen3-1.7B@abc") == ("Qwen/Qwen3-1.7B", "abc")
    assert locate("Qwen/Qwen3-1.7B", "abc") == ("Qwen/Qwen3-1.7B", "abc")
    assert locate("Qwen/Qwen3-1.7B") == ("Qwen/Qwen3-1.7B", None)
    folder = tmp_path / "a@b"
    folder.mkdir()
    assert locate(str(folder)) == (str(folder), None)


def test_only_a_built_in_models_own_folder_stands_for_its_name():
    assert resolve("miniature") == str(model_path("miniature"))
    assert resolve("./models/miniature") == "./models/miniature"
    assert resolve("/a/opsd/miniature/models/other") == "/a/opsd/miniature/models/other"


def test_a_tokenizer_of_another_model_is_refused(tiny_folder, tokenizer):
    refuse_other_tokenizer(load_model(str(tiny_folder)), tokenizer)
    with pytest.raises(UserError, match="belongs to another model"):
        refuse_other_tokenizer(tiny_model(100), tokenizer)


def test_a_reason_is_one_line_without_a_token():
    error = OSError("cannot open https://user:hf_abcdefghijkl@hub/x\nmore")
    assert reason(error) == "cannot open https://hub/x"
    assert reason(OSError()) == "OSError"


@pytest.mark.parametrize(
    ("name", "load"),
    [
        ("model.safetensors", load_model),
        *((n, x) for n in ("config.json", "tokenizer.json") for x in (load_model, load_tokenizer)),
    ],
)
def test_a_damaged_file_of_a_model_is_named(tmp_path, tiny_folder, name, load):
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    (folder / name).write_bytes((folder / name).read_bytes()[:-100])
    with pytest.raises(UserError, match=f"model/{name} is damaged"):
        load(str(folder))


@pytest.mark.parametrize("load", [load_model, load_tokenizer])
def test_a_configuration_that_cannot_be_is_one_line(tmp_path, tiny_folder, load):
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"layer_types": ["full_atuention"]}))
    with pytest.raises(UserError, match=r"cannot load the (model|tokenizer)") as told:
        load(str(folder))
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_checkpoint_that_is_not_as_it_was_written_is_refused(tmp_path, tiny_folder, name):
    folder = tmp_path / "checkpoint-1"
    shutil.copytree(tiny_folder, folder)
    checkpoint.seal(folder)
    load_model(str(folder))
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])
    with pytest.raises(UserError, match=f"checkpoint-1: {name} is damaged"):
        load_model(str(folder))
