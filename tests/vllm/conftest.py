"""The tiny model with heads of a width that vLLM has kernels for."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.conftest import save_tiny_model


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory, tokenizer) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    return save_tiny_model(folder, tokenizer, head_dim=32)
