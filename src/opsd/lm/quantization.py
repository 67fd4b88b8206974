"""Quantization of an adapter's base model to 4 or 8 bits (QLoRA), with bitsandbytes."""

from __future__ import annotations

import importlib.util
from typing import Any, Literal

import torch

from opsd.types import UserError
from opsd.validation import install

Bits = Literal["4bit", "8bit"]


def quantization(bits: Bits, dtype: str | None) -> Any:
    """Transformers' quantization configuration: `4bit` is QLoRA's (NF4 with double quantization),
    computing in `dtype`. Embeddings, head and norms are not quantized, so that the loss is exact.

    Raises UserError if bitsandbytes is not installed.
    """
    from transformers import BitsAndBytesConfig

    if bits not in ("4bit", "8bit"):
        raise UserError(f"model.quantization is '4bit' or '8bit', not '{bits}'")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(f"model.quantization needs bitsandbytes: {install('qlora')}")
    if bits == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16 if dtype == "bfloat16" else torch.float32,
    )


def keep_differentiable(model: Any) -> None:
    """Prevent bitsandbytes from repacking 4-bit weights for CPUs at a model's first pass in
    evaluation mode: no gradient flows through the packed weights, not even in training mode."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def is_quantized(model: Any) -> bool:
    return getattr(model, "quantization_method", None) is not None
