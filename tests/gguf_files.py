"""Small GGUF files, written by the package gguf as llama.cpp's converter would."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Kind
from transformers import LlamaConfig, LlamaForCausalLM

HEADS, KEYS = 4, 2
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def byte_alphabet() -> list[str]:
    """GPT-2's printable character of every byte: those that are printable stand for themselves, the
    others for the characters from 256 on."""
    plain = {*range(33, 127), *range(161, 173), *range(174, 256)}
    rest = iter(range(256, 512))
    return [chr(byte if byte in plain else next(rest)) for byte in range(256)]


MERGES = [("Ċ", "Ċ"), ("t", "h"), ("Ġ", "th"), ("Ġth", "e"), ("Ġ", "a")]
TOKENS = [*SPECIAL, *byte_alphabet(), *("".join(pair) for pair in MERGES)]


def llama(tied: bool = True) -> LlamaForCausalLM:
    """Two layers, 64 wide, random."""
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(TOKENS),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=HEADS,
            num_key_value_heads=KEYS,
            max_position_embeddings=4096,
            rope_parameters={"rope_type": "default", "rope_theta": 50_000.0},
            rms_norm_eps=1e-5,
            tie_word_embeddings=tied,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=2,
        )
    ).eval()


def write_gguf(
    path: Path,
    model: LlamaForCausalLM,
    kind: Kind = Kind.F32,
    *,
    architecture: str = "llama",
    more: Mapping[str, np.ndarray] | None = None,
    without: str | None = None,
    **said: Any,
) -> LlamaForCausalLM:
    """Writes the model with its matrices in `kind`; returns it with the numbers that are then in
    the file, as NumPy reads them. `more` are further tensors, `without` is left out; `said` is
    further metadata of the tokenizer."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer, config = gguf.GGUFWriter(path, architecture), model.config
    writer.add_name("tiny")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEYS)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.hidden_size // HEADS)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(said.pop("pre", "smollm"))
    writer.add_token_list(TOKENS)
    writer.add_token_types([3] * len(SPECIAL) + [1] * (len(TOKENS) - len(SPECIAL)))
    writer.add_token_merges([" ".join(pair) for pair in MERGES])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_add_bos_token(said.pop("begins", False))
    writer.add_chat_template(CHAT)
    assert not said
    weights = dict(model.named_parameters())
    for name, weight in weights.items():
        values = weight.detach().numpy()
        used = kind if values.ndim == 2 else Kind.F32
        raw = gguf.quantize(values, used)
        weight.data = torch.from_numpy(np.copy(gguf.dequantize(raw, used)))
        if name == without:
            continue
        # llama.cpp has the halves of a head's rotated pairs side by side.
        heads = {"q_proj": HEADS, "k_proj": KEYS}.get(name.split(".")[-2])
        if heads:
            halves = values.reshape(heads, 2, -1, values.shape[1])
            raw = gguf.quantize(halves.swapaxes(1, 2).reshape(values.shape), used)
        writer.add_tensor(_name(name), raw, raw_dtype=used)
    for name, values in (more or {}).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def _name(name: str) -> str:
    stem, _, kind = name.rpartition(".")
    if stem.startswith("model.layers."):
        _, _, layer, own = stem.split(".", 3)
        return f"blk.{layer}.{NAMES[own]}.{kind}"
    return f"{NAMES[stem]}.{kind}"
