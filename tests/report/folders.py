"""Small run folders, in the formats that training and evaluation write."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

RECIPE = """\
model: {{name: miniature, lora: null}}
method: {{name: {method}}}
data: {{source: miniature, language: yor}}
train: {{max_steps: {steps}, max_generated_tokens: {tokens}, learning_rate: 0.001}}
"""

ENVIRONMENT = {
    "python": "3.11.9",
    "platform": "Linux",
    "cpu": "a processor",
    "cpu_count": 2,
    "threads": 1,
    "gpus": [],
    "versions": {"opsd": "0.1.0", "torch": "2.13.0"},
    "git": {"commit": "0123abcd", "dirty": True},
    "seed": 7,
    "model": "miniature",
}


def train_line(step: int, **other: Any) -> dict[str, Any]:
    """A line of a method with a teacher; `other` overrides its numbers, None removes one."""
    line = {
        "step": step,
        "loss": 0.5 / step,
        "grad_norm": 0.03,
        "learning_rate": 0.001,
        "accuracy": min(1.0, 0.1 * step),
        "clip_fraction": 0.0,
        "completions/clipped_ratio": 0.25,
        "completions/mean_length": 12.0,
        "completions/reflective_markers": 1.5,
        "divergence": 0.9 / step,
        **{f"divergence/decile_{i}": 0.1 * i / step for i in range(10)},
        "entropy/student": 2.0,
        "entropy/teacher": 1.0,
        "format_rate": 0.5,
        "reward": 0.1,
        "rollouts_learned": 8.0,
        "completions/min_length": 3,
        "completions/max_length": 20,
        "time/loss": 0.1,
        "time/rollout": 0.5,
        "time/student": 0.3,
        "time/teacher": 0.2,
        "time/unaccounted": 0.0,
        "generated_tokens": 96 * step,
        "skipped_prompts": 0,
        "epoch": 0.2 * step,
    }
    line |= other
    return {name: value for name, value in line.items() if value is not None}


def without_teacher(step: int) -> dict[str, Any]:
    """A line of a method such as GRPO: no divergence, no teacher."""
    none = {f"divergence/decile_{i}": None for i in range(10)}
    return train_line(
        step, divergence=None, **none, **{"entropy/teacher": None, "time/teacher": None}
    )


def dev_line(step: int, accuracy: float) -> dict[str, Any]:
    return {
        "step": step,
        "eval_avg@k": accuracy,
        "eval_pass@k": 0.75,
        "eval_format_rate": 0.875,
        "eval_mean_length": 12.0,
        "epoch": 0.2 * step,
    }


def rollout(step: int, problem: str = "p1", **other: Any) -> dict[str, Any]:
    return {
        "step": step,
        "problem": problem,
        "sample": 0,
        "language": "yor",
        "prompt": "Ìṣòro kan",
        "prompt_ids": [1, 2],
        "views": [{"name": "solution", "weights": "frozen", "prompt": "Ojútùú", "prompt_ids": [1]}],
        "completion": f"written at {step}",
        "completion_ids": [5, 6, 7],
        "finish": "stop",
        "answer": "56",
        "reward": 0.0,
        "correct": False,
        "format_ok": True,
        "divergence": [0.0, 0.5, 1.0],
    } | other


def jsonl(path: Path, rows: Iterable[Mapping[str, Any]], end: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(text + end, "utf-8")


def run_folder(
    path: Path,
    method: str = "copsd",
    steps: int = 6,
    line: Callable[[int], dict[str, Any]] = train_line,
    rollouts: Iterable[Mapping[str, Any]] = (),
    planned: int | None = None,
    tokens: int | None = None,
) -> Path:
    """A run with a recipe, an environment, training lines and two dev lines."""
    lines = [line(step) for step in range(1, steps + 1)]
    jsonl(path / "metrics.jsonl", [*lines, dev_line(1, 0.25), dev_line(steps, 0.625)])
    asked = {"steps": planned or steps, "tokens": tokens or "null"}
    (path / "recipe.yaml").write_text(RECIPE.format(method=method, **asked))
    (path / "env.json").write_text(json.dumps(ENVIRONMENT))
    rows = list(rollouts)
    if rows:
        jsonl(path / "rollouts" / "rank0.jsonl", rows)
    return path


def result(language: str, method: str, seed: int, average: float, tokens: int) -> dict[str, Any]:
    """A row of a quickstart's result.json."""
    return {
        "language": language,
        "method": method,
        "seed": seed,
        "avg@4": average,
        "pass@4": average + 0.05,
        "format_rate": 0.9,
        "interval": [average - 0.04, average + 0.04],
        "scores": [average + 0.05 * (-1) ** i for i in range(50)],
        "generated_tokens": tokens,
    }


def quickstart_folder(path: Path) -> Path:
    """Two languages, two methods, two seeds."""
    results, samples = [], []
    for language, base in (("swa", 0.372), ("yor", 0.301)):
        results.append(result(language, "base", 0, base, 0))
        for method, average in (("grpo", 0.46), ("copsd", 0.88)):
            for seed in (0, 1):
                line = without_teacher if method == "grpo" else train_line
                folder = path / f"{language}-{method}-seed{seed}"
                run_folder(folder, method, line=line, rollouts=[rollout(0), rollout(5)])
                average_now = average + 0.02 * seed
                results.append(result(language, method, seed, average_now, 24_000 + seed))
        for method in ("base", "grpo", "copsd"):
            samples.append(
                {
                    "language": language,
                    "method": method,
                    "problem": "p1",
                    "prompt": "Zodwa ana vikapu 2",
                    "completion": f"{method} wrote this",
                    "answer": "56",
                    "correct": method == "copsd",
                }
            )
    control = [result("swa", "copsd_shuffled", 0, 0.35, 24_000)]
    content = {"seconds": 183.2, "results": results, "control": control}
    (path / "result.json").write_text(json.dumps(content))
    jsonl(path / "samples.jsonl", samples)
    return path
