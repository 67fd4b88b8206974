"""Loads models and tokenizers, by hub name, folder, or the name of a built-in one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from opsd.config import OPSDConfig
from opsd.miniature import model_path
from opsd.types import UserError


def resolve(name: str) -> str:
    """The folder of a built-in model, or the name as it is."""
    return str(model_path(name) or name)


def load_model(name: str, args: OPSDConfig | None = None, *, frozen_base: bool = False) -> Any:
    """A causal language model. Weights that are trained are kept in float32; a base that only an
    adapter changes takes the checkpoint's own type. A folder with an adapter loads both.

    Raises UserError where the model or its adapter cannot be loaded: never another one instead.
    """
    from transformers import AutoModelForCausalLM

    path = resolve(name)
    trained = args is not None and not frozen_base
    if args is not None and args.bf16 and frozen_base:
        dtype: Any = torch.bfloat16
    else:
        dtype = torch.float32 if trained else "auto"
    _refuse_lost_adapter(path)
    try:
        return AutoModelForCausalLM.from_pretrained(path, dtype=dtype)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot load the model '{name}': {_first_line(error)}") from error


def load_tokenizer(source: str | nn.Module) -> Any:
    """The tokenizer of a model, by its name or by the name it was loaded from."""
    from transformers import AutoTokenizer

    name = source if isinstance(source, str) else source.config._name_or_path
    try:
        tokenizer = AutoTokenizer.from_pretrained(resolve(name))
    except (OSError, ValueError) as error:
        raise UserError(
            f"cannot load the tokenizer of '{name}': {_first_line(error)}; pass processing_class"
        ) from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def vocabulary(tokenizer: Any) -> int:
    """One more than the largest id that the tokenizer can produce."""
    return max(tokenizer.get_vocab().values()) + 1


def eos_ids(model: Any, tokenizer: Any) -> list[int]:
    """Every id that ends a completion: the generation config's, and the tokenizer's own."""
    listed = model.generation_config.eos_token_id
    ids = listed if isinstance(listed, list) else [listed]
    return [i for i in dict.fromkeys([*ids, tokenizer.eos_token_id]) if i is not None]


def context_length(model: Any, limit: int) -> int:
    """Tokens that fit: the configured limit, or the model's own if that is smaller."""
    own = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return min(limit, own) if own else limit


def _refuse_lost_adapter(path: str) -> None:
    folder = Path(path)
    if (folder / "adapter_config.json").is_file() and not any(
        (folder / f).is_file() for f in ("adapter_model.safetensors", "adapter_model.bin")
    ):
        raise UserError(f"{path} has an adapter_config.json but no adapter weights; nothing loaded")


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
