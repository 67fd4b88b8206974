"""The environment of a run: versions, hardware, git state."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

VERSION = "0.1.0"

_PACKAGES = (
    *("torch", "transformers", "peft", "accelerate", "datasets", "math-verify"),
    *("vllm", "flash-attn", "bitsandbytes", "liger-kernel", "triton", "trl"),
)
"""The packages whose versions are recorded, if installed."""
_GIB = 1 << 30


def environment() -> dict[str, Any]:
    """Versions, hardware and git state: what a reproduction or a bug report needs. No secrets."""
    import torch

    versions = {"opsd": VERSION}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": [gpu.name for gpu in gpus],
        "gpu_memory_gib": [round(gpu.total_memory / _GIB, 1) for gpu in gpus],
        "versions": versions,
        "git": _git(),
    }


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _git() -> dict[str, Any] | None:
    """Commit of the working directory, and whether it has uncommitted changes."""
    try:
        commit, status = (
            subprocess.run(
                ["git", *command], capture_output=True, text=True, timeout=10, check=True
            ).stdout.strip()
            for command in (("rev-parse", "HEAD"), ("status", "--porcelain"))
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "dirty": bool(status)}
