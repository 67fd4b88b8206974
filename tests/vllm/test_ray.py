"""A launch on Ray with `vllm serve` for engines: a trainer is killed, then an engine."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest
import yaml
from tests.launch import test_ray as ray

pytest.importorskip("vllm", reason="vllm is not installed: it has an environment of its own")
pytestmark = pytest.mark.slow

# What `vllm serve` runs; that command itself does not start from the package for CPUs.
SERVER = (
    f"{shlex.quote(sys.executable)} -m vllm.entrypoints.openai.api_server --dtype float32"
    " --enforce-eager --max-model-len 512 --model"
)
OWN = {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "WARNING"}


def test_killed_actors_change_nothing(tmp_path: Path, monkeypatch):
    for name, value in OWN.items():
        monkeypatch.setenv(name, value)
    # All but greedy, so that Transformers draws what vLLM draws, and compared at 1; of a width that
    # vLLM has kernels for.
    content = {
        **ray.RECIPE,
        "model": {**ray.RECIPE["model"], "name": "miniature"},
        "method": {"name": "opsd", "signal": {"temperature": 1.0}},
        "sampling": {**ray.RECIPE["sampling"], "temperature": 1e-3},
    }
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(content), "utf-8")
    ray.assert_undisturbed(recipe, tmp_path, SERVER, "vllm.entrypoints.openai.api_server")
