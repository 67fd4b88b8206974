"""Loads only a model's output layer from its checkpoint. The rest of the model is never loaded, and
from the Hub only the file with that layer is downloaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import EntryNotFoundError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from opsd.lm.forward import head_of
from opsd.lm.loading import (
    adapter_folder,
    auto_model,
    base_of,
    load_config,
    locate,
    nonfinite,
    reason,
)
from opsd.objective.head import Head
from opsd.types import UserError

_WHOLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_CUT = "leave 'head' out, so that the server sends it"


def load_head(name: str, vocab: int, dtype: torch.dtype) -> Head:
    """The head of a checkpoint in safetensors, by folder or Hub name, in `dtype`, with its soft-cap
    and scale. For an adapter it is the base model's; if the head is tied, it is the embeddings.

    Raises UserError if it cannot be read, or is not stored under a name that Transformers uses.
    """
    path, revision = locate(name)
    if (adapter := adapter_folder(path, revision)) is not None:
        path, revision = base_of(adapter)
    try:
        with torch.device("meta"):
            config = load_config(path, revision)
            empty = auto_model(config.model_type).from_config(config)
        frame = head_of(empty, vocab)
        weight = _read(path, revision, _names(empty, frame.weight))
        bias = None if frame.bias is None else _read(path, revision, _names(empty, frame.bias))
    except (OSError, ValueError, ImportError, KeyError, SafetensorError) as error:
        raise UserError(f"head: '{name}' cannot be read: {reason(error)}; {_CUT}") from error
    if nonfinite({"weight": weight, "bias": bias}):
        raise UserError(f"head: '{name}' contains NaN or infinite values")
    if weight.shape != frame.weight.shape:
        told = f"{tuple(weight.shape)}, not {tuple(frame.weight.shape)}"
        raise UserError(f"head: '{name}' is not the checkpoint of its config.json: {told}")
    return Head(
        weight.to(dtype),
        None if bias is None else bias.to(dtype),
        vocab=frame.vocab,
        softcap=frame.softcap,
        scale=frame.scale,
    )


def _names(model: Any, parameter: Tensor) -> list[str]:
    """A parameter's names in the model, several if it is tied."""
    named = model.named_parameters(remove_duplicate=False)
    return [name for name, own in named if own is parameter]


def _read(path: str, revision: str | None, names: list[str]) -> Tensor:
    """The tensor of a checkpoint that has one of the names, with or without the trunk's prefix."""
    places = _files(path, revision)
    known = [*names, *(name.partition(".")[2] for name in names)]
    for name in known:
        if name in places:
            with safe_open(_local(path, places[name], revision), "pt") as file:
                return file.get_tensor(name)
    raise ValueError(f"it has no tensor {' or '.join(names)}")


def _files(path: str, revision: str | None) -> dict[str, str]:
    """The file of every tensor of a checkpoint, by the tensor's name."""
    try:
        index = Path(_local(path, _INDEX, revision)).read_text("utf-8")
        return json.loads(index)["weight_map"]
    except (FileNotFoundError, EntryNotFoundError):  # the checkpoint is a single file
        with safe_open(_local(path, _WHOLE, revision), "pt") as file:
            return dict.fromkeys(file.keys(), _WHOLE)


def _local(path: str, name: str, revision: str | None) -> str:
    """A checkpoint's local file, downloaded first if it is on the Hub."""
    from huggingface_hub import hf_hub_download

    if Path(path).is_dir():
        return str(Path(path) / name)
    return hf_hub_download(path, name, revision=revision)
