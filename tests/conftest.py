"""A tiny random Qwen3 on disk, made once per session: the real code paths, no download."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM
from transformers.utils import logging as transformers_logging

from opsd.miniature.tokenizer import build_tokenizer

transformers_logging.disable_progress_bar()
torch.set_num_threads(1)
with contextlib.suppress(ImportError):  # vLLM's tests do not need it
    from hypothesis import HealthCheck, settings

    # How long an example takes depends on the machine, not on what is tested.
    settings.register_profile("opsd", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("opsd")


def pytest_configure(config: pytest.Config) -> None:
    # pytest-xdist would begin with the files of the most tests, and end with the longest ones.
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first, so that no process is left alone with one at the end."""
    long = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in long)


def tiny_model(vocab: int, **changes: object) -> Qwen3ForCausalLM:
    """Two layers, 64 wide, always the same weights; a few vocabulary rows more than ids."""
    torch.manual_seed(0)
    config = {
        "vocab_size": vocab + 5,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "tie_word_embeddings": True,
        "max_position_embeddings": 8192,
    }
    return Qwen3ForCausalLM(Qwen3Config(**{**config, **changes}))


def save_tiny_model(folder: Path, tokenizer: Any, **changes: object) -> Path:
    model = tiny_model(len(tokenizer), **changes)
    model.config.eos_token_id = model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.config.pad_token_id = model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_tiny_diffusion_model(folder: Path, **changes: object) -> Path:
    """The same, looking both ways."""
    own = build_tokenizer("miniature-diffusion")
    masked = {"is_causal": False, "mask_token_id": own.mask_token_id}
    return save_tiny_model(folder, own, **masked, **changes)


@pytest.fixture(scope="session")
def diffusion_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_diffusion_model(tmp_path_factory.mktemp("models") / "tiny-diffusion")


@pytest.fixture(scope="session")
def tokenizer():
    return build_tokenizer()


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory, tokenizer) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny", tokenizer)
