"""opsd: on-policy self-distillation of language models."""

from __future__ import annotations

import importlib

TYPE_CHECKING = False  # `import typing` takes time in which Ctrl-C would print a traceback
if TYPE_CHECKING:
    from typing import Any

    from opsd import methods
    from opsd.rollout.engines import VLLM, SGLangServer, VLLMServer
    from opsd.training.config import OPSDConfig
    from opsd.training.trainer import OPSDTrainer
    from opsd.types import Problem, Verdict

__all__ = [
    "VLLM",
    "OPSDConfig",
    "OPSDTrainer",
    "Problem",
    "SGLangServer",
    "VLLMServer",
    "Verdict",
    "methods",
]

_HOMES = {
    "OPSDConfig": "opsd.training.config",
    "OPSDTrainer": "opsd.training.trainer",
    "Problem": "opsd.types",
    "VLLM": "opsd.rollout.engines",
    "SGLangServer": "opsd.rollout.engines",
    "VLLMServer": "opsd.rollout.engines",
    "Verdict": "opsd.types",
}


def __getattr__(name: str) -> Any:
    """Public names, imported on first access, so that `opsd --help` does not load torch."""
    if name == "methods":
        return importlib.import_module("opsd.methods")
    if name == "__version__":
        return importlib.import_module("opsd.runs.environment").VERSION
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'opsd' has no attribute '{name}'")
