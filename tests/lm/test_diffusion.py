"""Masked diffusion models in the layouts that LLaDA and Dream are published in: tiny random ones,
written by hand, against this package's reading of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.conftest import save_tiny_diffusion_model
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from opsd.lm.diffusion import MaskedDiffusion, masked_diffusion
from opsd.lm.loading import load_model, load_tokenizer

IDS = torch.tensor([[5, 9, 2, 30, 7]])
LLADA = {  # the published LLaDA-8B-Instruct's keys, with small numbers
    "model_type": "llada",
    "architectures": ["LLaDAModelLM"],
    "auto_map": {"AutoModelForCausalLM": "modeling_llada.LLaDAModelLM"},
    "activation_type": "silu",
    "alibi": False,
    "attention_dropout": 0.0,
    "block_type": "llama",
    "d_model": 32,
    "embedding_size": 40,
    "eos_token_id": 1,
    "include_bias": False,
    "include_qkv_bias": False,
    "init_device": "meta",
    "layer_norm_type": "rms",
    "mask_token_id": 38,
    "max_sequence_length": 64,
    "mlp_hidden_size": 48,
    "n_heads": 4,
    "n_kv_heads": 2,
    "n_layers": 2,
    "pad_token_id": 0,
    "rms_norm_eps": 1e-5,
    "rope": True,
    "rope_theta": 500000.0,
    "vocab_size": 39,
    "weight_tying": False,
}
DREAM = {  # the published Dream-v0-Instruct-7B's keys, with small numbers
    "model_type": "Dream",
    "architectures": ["DreamModel"],
    "auto_map": {"AutoModel": "modeling_dream.DreamModel"},
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 1,
    "hidden_act": "silu",
    "hidden_size": 32,
    "initializer_range": 0.02,
    "intermediate_size": 48,
    "mask_token_id": 38,
    "max_position_embeddings": 64,
    "max_window_layers": 2,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 40,
}
_OF_LAYER = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ff_norm",
    "self_attn.q_proj": "q_proj",
    "self_attn.k_proj": "k_proj",
    "self_attn.v_proj": "v_proj",
    "self_attn.o_proj": "attn_out",
    "mlp.gate_proj": "ff_proj",
    "mlp.up_proj": "up_proj",
    "mlp.down_proj": "ff_out",
}


def in_lladas_words(name: str) -> str:
    plain = {
        "model.embed_tokens.weight": "model.transformer.wte.weight",
        "model.norm.weight": "model.transformer.ln_f.weight",
        "lm_head.weight": "model.transformer.ff_out.weight",
    }
    if name in plain:
        return plain[name]
    _, _, number, rest = name.split(".", 3)
    return f"model.transformer.blocks.{number}.{_OF_LAYER[rest.removesuffix('.weight')]}.weight"


def saved(folder: Path, content: dict[str, Any], weights: dict[str, torch.Tensor]) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(content))
    save_file({k: v.contiguous() for k, v in weights.items()}, folder / "model.safetensors")
    return folder


def llada(folder: Path) -> tuple[Path, torch.nn.Module]:
    """A checkpoint, and a Llama of the same weights."""
    torch.manual_seed(3)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    config = LlamaConfig(
        vocab_size=40,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
        initializer_range=0.5,
        **sizes,
    )
    like = LlamaForCausalLM(config).eval()
    weights = {in_lladas_words(name): weight for name, weight in like.state_dict().items()}
    return saved(folder, LLADA, weights), like


def dream(folder: Path) -> tuple[Path, torch.nn.Module]:
    torch.manual_seed(3)
    own = {k: v for k, v in DREAM.items() if k not in ("model_type", "architectures", "auto_map")}
    like = Qwen2ForCausalLM(Qwen2Config(**own | {"initializer_range": 0.5})).eval()
    return saved(folder, DREAM, like.state_dict()), like


def both_ways(model: torch.nn.Module) -> torch.Tensor:
    """Logits with a mask that hides nothing, which no causal layer overrules."""
    mask = torch.zeros(1, 1, IDS.shape[1], IDS.shape[1])
    with torch.no_grad():
        return model(input_ids=IDS, attention_mask=mask).logits


@pytest.mark.parametrize("make", [llada, dream])
def test_a_published_checkpoint_is_read_without_its_own_code(make, tmp_path: Path):
    folder, like = make(tmp_path / "published")
    model = load_model(str(folder))
    with torch.no_grad():
        torch.testing.assert_close(model(input_ids=IDS).logits, both_ways(like))
        causal = like(input_ids=IDS).logits
    assert (both_ways(like) - causal).abs().max() > 1e-2
    assert masked_diffusion(model) == MaskedDiffusion(38, shifted=make is dream)


@pytest.mark.parametrize("make", [llada, dream])
def test_saved_again_it_is_a_model_like_any_other(make, tmp_path: Path):
    folder, _ = make(tmp_path / "published")
    model = load_model(str(folder))
    model.save_pretrained(tmp_path / "again")
    names = set(load_file(tmp_path / "again" / "model.safetensors"))
    assert "model.layers.0.self_attn.q_proj.weight" in names
    again = load_model(str(tmp_path / "again"))
    with torch.no_grad():
        torch.testing.assert_close(again(input_ids=IDS).logits, model(input_ids=IDS).logits)
    assert masked_diffusion(again) == masked_diffusion(model)


def test_dreams_tokenizer_is_read_without_its_own_code(tmp_path: Path):
    letters = {chr(c): i for i, c in enumerate(range(33, 127))} | {"Ġ": 94, "Ġb": 95}
    (tmp_path / "vocab.json").write_text(json.dumps(letters))
    (tmp_path / "merges.txt").write_text("#version: 0.2\nĠ b\n")
    own = {
        "tokenizer_class": "DreamTokenizer",
        "auto_map": {"AutoTokenizer": ["tokenization_dream.DreamTokenizer", None]},
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "mask_token": "<|mask|>",
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(own))
    (tmp_path / "config.json").write_text(json.dumps(DREAM))
    tokenizer = load_tokenizer(str(tmp_path))
    assert tokenizer("a b")["input_ids"] == [letters["a"], 95]
    assert tokenizer.decode(tokenizer("a b")["input_ids"]) == "a b"
    assert tokenizer.mask_token == "<|mask|>"


def test_a_model_that_generates_left_to_right_is_none(tiny_folder: Path):
    assert masked_diffusion(load_model(str(tiny_folder))) is None


def test_its_own_code_is_never_asked_for(tmp_path: Path):
    """Another type with code of its own is refused as ever."""
    folder = save_tiny_diffusion_model(tmp_path / "one")
    content = json.loads((folder / "config.json").read_text())
    content |= {"model_type": "unknown", "auto_map": {"AutoConfig": "x.X"}}
    shutil.copytree(folder, tmp_path / "two")
    (tmp_path / "two" / "config.json").write_text(json.dumps(content))
    with pytest.raises(Exception, match="trust_remote_code"):
        load_model(str(tmp_path / "two"))
