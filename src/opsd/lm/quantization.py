"""A base in 4 or 8 bits under an adapter (QLoRA), through bitsandbytes."""

from __future__ import annotations

import importlib.util
from typing import Any, Literal

import torch

from opsd.types import UserError
from opsd.validation import install

Bits = Literal["4bit", "8bit"]


def quantization(bits: Bits, dtype: str | None) -> Any:
    """Transformers' configuration: `4bit` is QLoRA's (normal floats, constants quantized as well),
    multiplied in `dtype`. Embeddings, head and norms stay as they are, so that the loss is exact.

    Raises UserError where bitsandbytes is not installed.
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
    """Keeps bitsandbytes from packing 4-bit weights anew for CPUs when a model first reads in
    evaluation mode: no gradient flows through what is packed so, in training mode either."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def is_quantized(model: Any) -> bool:
    return getattr(model, "quantization_method", None) is not None
