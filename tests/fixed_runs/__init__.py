"""Five short trainings with fixed seeds, and digests of everything that they leave but the clock:
whoever moves code about learns whether a number has moved with it.

`python -m tests.fixed_runs` trains them and compares with the digests of this kind of machine in
`digests.json`; with `--write` it stores them instead. Numbers depend on processor and versions: on
another kind of machine, write them before a change and compare after it.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import load_file

STORED = Path(__file__).with_name("digests.json")

_SHARED: dict[str, Any] = {
    "model": {"name": "miniature"},
    "data": {"source": "miniature", "language": "swa", "limit": 24, "dev": 4},
    "sampling": {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "max_completion_length": 24},
}
_STEPS = {
    "max_steps": 4,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "gradient_checkpointing": False,
    "learning_rate": 1e-3,
    "max_grad_norm": 1.0,
    "save_steps": 4,
    "eval_samples": 1,
    "eval_on_start": False,
    "trace_steps": 2,
    "report_to": [],
    "use_cpu": True,
    "bf16": False,
}
RUNS: dict[str, dict[str, Any]] = {
    "opsd under LoRA": {
        "model": {"name": "miniature", "lora": {"r": 8, "lora_alpha": 16}},
        "method": {"name": "opsd"},
    },
    "copsd, all weights": {"method": {"name": "copsd"}},
    "grpo, rollouts used twice": {"method": {"name": "grpo", "group": 4, "reuse": 2}},
    "a sum of signals": {"method": {"name": "ssopd", "group": 4}},
    "an EMA teacher": {"method": {"name": "sdpo", "group": 4}},
}
"""Recipes by name, over what all of them share."""


def trained(name: str, folder: Path) -> Path:
    """One of the runs, trained by the command; its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({**_SHARED, "train": _STEPS, **RUNS[name]}), "utf-8")
    output = folder / "run"
    command = [sys.executable, "-m", "opsd", "train", str(recipe), "--output", str(output)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return output


def digests(run: Path) -> dict[str, str]:
    """A digest of every metric, of every field of rollouts and traces, and of all weights."""
    found: dict[str, str] = {}
    for name, file in (
        ("metrics", "metrics.jsonl"),
        ("rollouts", "rollouts/rank0.jsonl"),
        ("traces", "traces/rank0.jsonl"),
    ):
        lines = (run / file).read_text("utf-8").splitlines()
        for key, values in _columns(json.loads(line) for line in lines).items():
            if not key.startswith(("time/", "total_flos", "train_")) and "_per_second" not in key:
                found[f"{name}/{key}"] = _digest(json.dumps(values).encode())
    for file in (*sorted(run.glob("model/*.safetensors")), *run.glob("checkpoint-4/opsd/*tensors")):
        tensors = sorted(load_file(file).items())
        parts = (n.encode() + t.float().numpy().tobytes() for n, t in tensors)
        found[f"weights/{file.name}"] = _digest(b"".join(parts))
    return found


def machine() -> str:
    """What numbers depend on besides code: processor and versions."""
    from opsd.runs.environment import environment

    about = environment()
    versions = (f"{name} {about['versions'][name]}" for name in ("torch", "transformers"))
    return ", ".join([about["cpu"], *versions])


def stored() -> dict[str, dict[str, dict[str, str]]]:
    """Digests by machine and run."""
    return json.loads(STORED.read_text("utf-8")) if STORED.exists() else {}


def _columns(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {}
    for row in rows:
        for key, value in row.items():
            columns.setdefault(key, []).append(value)
    return columns


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]
