"""Masked diffusion language models: how they are recognised, and how LLaDA's and Dream's published
checkpoints are loaded without their own code.

Such a model is a Transformers model whose configuration says `is_causal: false` and names the
`mask_token_id`; `predicts_next: true` means that a token is predicted at the position before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from opsd.lm.forward import causal_lm
from opsd.types import UserError

PUBLISHED = ("llada", "Dream")
"""The `model_type` of published checkpoints that come with their own modeling code."""

_LLADA = {
    r"^model\.transformer\.ff_out": "lm_head",
    r"^model\.transformer\.wte": "model.embed_tokens",
    r"^model\.transformer\.ln_f": "model.norm",
    r"^model\.transformer\.blocks": "model.layers",
    r"\.attn_norm": ".input_layernorm",
    r"\.ff_norm": ".post_attention_layernorm",
    r"\.q_proj": ".self_attn.q_proj",
    r"\.k_proj": ".self_attn.k_proj",
    r"\.v_proj": ".self_attn.v_proj",
    r"\.attn_out": ".self_attn.o_proj",
    r"\.ff_proj": ".mlp.gate_proj",
    r"\.up_proj": ".mlp.up_proj",
    r"\.ff_out": ".mlp.down_proj",
}
"""LLaDA is a Llama except for its weights' names; these are replaced in this order."""
_FOREIGN = ("model_type", "architectures", "auto_map", "transformers_version", "is_causal")


@dataclass(frozen=True)
class MaskedDiffusion:
    """The id of the mask token, and whether a token is predicted at the position before it."""

    mask_id: int
    shifted: bool = False


def masked_diffusion(model: nn.Module) -> MaskedDiffusion | None:
    """The kind of masked diffusion model; None for a model that generates left to right."""
    config = causal_lm(model).config
    mask_id = getattr(config, "mask_token_id", None)
    if getattr(config, "is_causal", True) or mask_id is None:
        return None
    return MaskedDiffusion(mask_id, bool(getattr(config, "predicts_next", False)))


def refuse_masked_diffusion(model: nn.Module, engine: str) -> None:
    """Raises UserError for a masked diffusion model, which the engine cannot use."""
    if masked_diffusion(model) is not None:
        raise UserError(
            f"engine: {engine} generates left to right, but the model is a masked diffusion model:"
            " leave engine out, so that the model itself generates"
        )


def look_both_ways(model: nn.Module) -> None:
    """Without a mask, attention follows each layer's `is_causal`, whatever the model's
    configuration says; this sets the layers' values accordingly."""
    if getattr(causal_lm(model).config, "is_causal", True):
        return
    for module in model.modules():
        if hasattr(module, "is_causal"):
            module.is_causal = False  # type: ignore[assignment]


def published_config(content: Mapping[str, Any]) -> Any:
    """The Transformers configuration of a published checkpoint, from its config.json."""
    from transformers import LlamaConfig, Qwen2Config

    if content["model_type"] == "Dream":
        own = {k: v for k, v in content.items() if k not in _FOREIGN}
        return Qwen2Config(**own, is_causal=False, predicts_next=True)
    heads = content["n_heads"]
    return LlamaConfig(
        vocab_size=content.get("embedding_size") or content["vocab_size"],
        hidden_size=content["d_model"],
        intermediate_size=content["mlp_hidden_size"],
        num_hidden_layers=content["n_layers"],
        num_attention_heads=heads,
        num_key_value_heads=content.get("n_kv_heads") or heads,
        max_position_embeddings=content["max_sequence_length"],
        rms_norm_eps=content["rms_norm_eps"],
        rope_parameters={"rope_type": "default", "rope_theta": content["rope_theta"]},
        tie_word_embeddings=content.get("weight_tying", False),
        attention_bias=bool(content.get("include_qkv_bias", False)),
        bos_token_id=None,
        eos_token_id=content["eos_token_id"],
        pad_token_id=content.get("pad_token_id"),
        mask_token_id=content["mask_token_id"],
        is_causal=False,
    )


def published_tokenizer(name: str | None, usual: Any) -> Any:
    """The class that loads a checkpoint's tokenizer: Dream's is Qwen2's under another name."""
    from transformers import Qwen2TokenizerFast

    return Qwen2TokenizerFast if name == "DreamTokenizer" else usual


def published_names(content: Mapping[str, Any]) -> dict[str, str]:
    """Patterns that map a published checkpoint's weight names to Transformers'; Dream's names are
    the same."""
    return _LLADA if content["model_type"] == "llada" else {}
