"""The head alone: what the whole model's loading gives, from the one file that holds it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from tests.conftest import save_tiny_model
from tests.fake_hub import TOKENS, Repository, serving
from tests.lm.test_architectures import ARCHITECTURES, save_tiny

from opsd.lm.forward import head_of
from opsd.lm.head_file import load_head
from opsd.lm.loading import load_model, vocabulary, with_adapter
from opsd.objective.head import Head
from opsd.types import UserError


def same(one: Head, other: Head) -> bool:
    tensors = [(one.weight, other.weight), (one.bias, other.bias)]
    plain = all(a is b or a.equal(b) for a, b in tensors)
    return plain and (one.vocab, one.softcap, one.scale) == (
        other.vocab,
        other.softcap,
        other.scale,
    )


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_it_is_the_whole_models(name, tied, tmp_path, tokenizer, monkeypatch):
    monkeypatch.setitem(ARCHITECTURES, name, ARCHITECTURES[name] | {"tie_word_embeddings": tied})
    folder = save_tiny(name, tokenizer, tmp_path)
    vocab = vocabulary(tokenizer)
    whole = head_of(load_model(str(folder), dtype="float32"), vocab)
    assert same(load_head(str(folder), vocab, torch.float32), whole)
    assert load_head(str(folder), vocab, torch.bfloat16).weight.dtype == torch.bfloat16


def test_a_bias_comes_along(tmp_path: Path, tokenizer):
    from transformers import PhiConfig, PhiForCausalLM

    torch.manual_seed(0)
    model = PhiForCausalLM(
        PhiConfig(vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=1)
    )
    torch.nn.init.normal_(model.lm_head.bias)
    model.save_pretrained(tmp_path)
    own = load_head(str(tmp_path), 50, torch.float32)
    assert own.bias is not None and same(own, head_of(model, 50))


def sharded(folder: Path, tokenizer: Any) -> Path:
    """A checkpoint of several files, of which all but the one with the head are gone."""
    save_tiny_model(folder, tokenizer, tie_word_embeddings=False)
    load_model(str(folder)).save_pretrained(folder, max_shard_size="100KB")
    (folder / "model.safetensors").unlink(missing_ok=True)
    places = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    others = set(places.values()) - {places["lm_head.weight"]}
    assert others
    for name in others:
        (folder / name).unlink()
    return folder


def test_no_other_file_is_read(tmp_path: Path, tokenizer):
    whole = save_tiny_model(tmp_path / "whole", tokenizer, tie_word_embeddings=False)
    expected = head_of(load_model(str(whole)), 100)
    assert same(load_head(str(sharded(tmp_path / "cut", tokenizer)), 100, torch.float32), expected)


def test_an_adapters_is_its_bases(tmp_path: Path, tiny_folder):
    model = load_model(str(tiny_folder))
    config = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    with_adapter(model, config, 0).save_pretrained(tmp_path)
    own, base = (load_head(str(p), 100, torch.float32) for p in (tmp_path, tiny_folder))
    assert same(own, base)


def test_what_cannot_be_read_is_told_in_a_line(tmp_path: Path, tiny_folder):
    with pytest.raises(UserError, match=r"cannot load the model '.*/nowhere'"):
        load_head(str(tmp_path / "nowhere"), 100, torch.float32)
    folder = tmp_path / "other"
    shutil.copytree(tiny_folder, folder)
    weights = load_file(folder / "model.safetensors")
    renamed = {k.replace("embed_tokens", "tokens"): v for k, v in weights.items()}
    save_file(renamed, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"no tensor model\.embed_tokens\.weight or lm_head"):
        load_head(str(folder), 100, torch.float32)
    cut = {k: v[:-1].clone() if "embed_tokens" in k else v for k, v in weights.items()}
    save_file(cut, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"is not the checkpoint of its config\.json"):
        load_head(str(folder), 100, torch.float32)


@pytest.mark.slow
def test_of_a_hub_the_one_file_is_downloaded(tmp_path: Path, tokenizer):
    folder = sharded(tmp_path / "cut", tokenizer)
    expected = load_head(str(folder), 100, torch.float32).weight.double().sum().item()
    files = {file.name: file.read_bytes() for file in folder.iterdir()}
    with serving() as hub:
        hub.repositories["someone/teacher"] = Repository(commits=[files])
        asks = (
            "import torch; from opsd.lm.head_file import load_head;"
            "head = load_head('someone/teacher', 100, torch.float32);"
            "print(head.weight.double().sum().item())"
        )
        env = {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "0"}
        done = subprocess.run(
            [sys.executable, "-c", asks],
            env={**os.environ, **env, "HF_TOKEN": next(iter(TOKENS))},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert done.returncode == 0, done.stderr[-2000:]
    assert float(done.stdout) == pytest.approx(expected)
