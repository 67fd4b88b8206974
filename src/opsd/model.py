"""Loads models and tokenizers, by hub name, folder, or the name of a built-in one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from opsd.config import OPSDConfig
from opsd.miniature import model_path
from opsd.teacher.start import refuse_prompt_learning
from opsd.types import UserError


def resolve(name: str) -> str:
    """The folder of a built-in model, or the name as it is."""
    return str(model_path(name) or name)


def load_model(name: str, args: OPSDConfig | None = None, *, frozen_base: bool = False) -> Any:
    """A causal language model. Weights that are trained are kept in float32; a base that only an
    adapter changes takes the checkpoint's own type. A folder with an adapter loads both; training
    goes on with the adapter.

    Raises UserError where the model or its adapter cannot be loaded: never another one instead.
    """
    from transformers import AutoModelForCausalLM

    path = resolve(name)
    refuse_lost_adapter(path)
    continued = args is not None and not frozen_base and _is_adapter(path)
    if args is not None and args.bf16 and (frozen_base or continued):
        dtype: Any = torch.bfloat16
    else:
        dtype = "auto" if args is None or frozen_base or continued else torch.float32
    try:
        if continued:
            from peft import AutoPeftModelForCausalLM, PeftConfig

            refuse_prompt_learning(PeftConfig.from_pretrained(path))
            return AutoPeftModelForCausalLM.from_pretrained(path, is_trainable=True, dtype=dtype)
        # Pickled weights are refused: they can run code when they are opened.
        return AutoModelForCausalLM.from_pretrained(path, dtype=dtype, use_safetensors=True)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot load the model '{name}': {_first_line(error)}") from error


def load_tokenizer(source: str | nn.Module) -> Any:
    """The tokenizer of a model, by its name or by the name it was loaded from."""
    from transformers import AutoTokenizer

    module: Any = source
    name: str = source if isinstance(source, str) else module.config._name_or_path
    try:
        tokenizer = AutoTokenizer.from_pretrained(resolve(name))
    except (OSError, ValueError) as error:
        raise UserError(
            f"cannot load the tokenizer of '{name}': {_first_line(error)}; pass processing_class"
        ) from error
    return padded(tokenizer)


def padded(tokenizer: Any) -> Any:
    """The tokenizer, with its end-of-sequence token for padding where it names none."""
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def with_adapter(model: Any, config: Any, seed: int) -> Any:
    """The model under a new adapter, which the seed alone determines: a resumed run starts from the
    same one, whatever was drawn before it in its process."""
    from peft import get_peft_model
    from transformers import set_seed

    if hasattr(model, "peft_config"):
        raise UserError(
            f"'{model.config._name_or_path}' has an adapter already: leave 'lora' out to train"
            " that one on, or merge it first"
        )
    set_seed(seed)
    return get_peft_model(model, config)


def accept_objectives(model: nn.Module) -> None:
    """Lets the model's forward run a given function of the model instead: so the student's trunk
    and the loss run inside whatever wraps the model."""
    original = model.forward

    def forward(*args: Any, objective: Any = None, **kwargs: Any) -> Any:
        return original(*args, **kwargs) if objective is None else objective(model)

    model.forward = forward


def switch_dropout_off(model: nn.Module) -> None:
    """A teacher that is the student must read the same text the same way."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0  # type: ignore[assignment]


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


def _is_adapter(path: str) -> bool:
    return (Path(path) / "adapter_config.json").is_file()


def refuse_lost_adapter(path: str) -> None:
    """Raises UserError for an adapter's folder without weights: the base model is no substitute."""
    if _is_adapter(path) and not (Path(path) / "adapter_model.safetensors").is_file():
        raise UserError(
            f"{path} has an adapter_config.json but no adapter_model.safetensors; nothing loaded"
        )


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
