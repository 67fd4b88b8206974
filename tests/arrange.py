"""What many tests begin with: a few problems, a quick configuration, an engine."""

from __future__ import annotations

import contextlib
import itertools
import random
import socket
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from opsd.cli.commands import main
from opsd.miniature.world import problems as world
from opsd.prompts.contexts import StudentPrompt
from opsd.rollout.engine import Sampling
from opsd.rollout.hf import HFEngine
from opsd.rollout.sources import Sampler
from opsd.runs.files import read_jsonl
from opsd.training.config import OPSDConfig
from opsd.types import Problem, Verdict


def problems(n: int, language: str = "swa") -> list[Problem]:
    """Real rows of the built-in world: text, answer, solution and translation."""
    return world("miniature", "train", language, n)


def config(folder: Path, **changes: Any) -> OPSDConfig:
    """Two short steps of four rollouts; silent; nothing saved."""
    settings: dict[str, Any] = {
        "max_steps": 2,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 1,
        "gradient_checkpointing": False,
        "learning_rate": 1e-3,
        "max_grad_norm": 1.0,
        "max_completion_length": 6,
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
        "bf16": False,
        "trace_steps": 0,
    }
    return OPSDConfig(output_dir=str(folder), **{**settings, **changes})


def command(monkeypatch: Any, *arguments: str) -> int:
    """`opsd` with arguments, in this process; how it ended."""
    monkeypatch.setattr("sys.argv", ["opsd", *arguments])
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def some_right(pairs: Sequence[tuple[Problem, str]]) -> list[Verdict]:
    """A verifier without mathematics: every second completion is right."""
    return [Verdict(float(i % 2 == 0), i % 2 == 0, True) for i in range(len(pairs))]


def free_port() -> int:
    """A port below those that the kernel gives to whoever asks for any."""
    while True:
        port = random.SystemRandom().randrange(10_000, 32_000)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


def every_second() -> Callable[[Problem, str], Verdict]:
    """A verifier to which one completion is right and the next one wrong, so that groups differ."""
    turn = itertools.cycle([True, False])

    def judge(problem: Problem, completion: str) -> Verdict:
        right = next(turn)
        return Verdict(float(right), right, True)

    return judge


def odd_length(problem: Problem, completion: str) -> Verdict:
    """A verifier of single completions, whatever the order they are judged in."""
    return Verdict(float(len(completion) % 2), len(completion) % 2 == 1, True)


def metrics(run: Path) -> list[dict[str, Any]]:
    """Everything that a run has logged, but for the clock."""
    rows = read_jsonl(run / "metrics.jsonl")
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in rows]


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def gap(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The largest difference between two sets of weights."""
    assert one.keys() == other.keys()
    return max((one[name] - other[name]).abs().max().item() for name in one)


def engine_for(model: nn.Module, tokenizer: Any, **changes: Any) -> HFEngine:
    settings = {
        "eos_ids": [tokenizer.eos_token_id],
        "pad_id": tokenizer.pad_token_id,
        "vocab": len(tokenizer),
    }
    return HFEngine(model, **{**settings, **changes})


def sampler_for(engine: Any, tokenizer: Any, **changes: Any) -> Sampler:
    settings: dict[str, Any] = {
        "student": StudentPrompt(),
        "verify": some_right,
        "sampling": Sampling(max_tokens=5),
        "use_weights": lambda weights: nullcontext(),
        "eos_id": tokenizer.eos_token_id,
        "limit": 4096,
    }
    return Sampler(engine=engine, tokenizer=tokenizer, **{**settings, **changes})


def small_recipe(model: dict[str, Any], method: str, language: str, **train: Any) -> dict[str, Any]:
    """Short training of an adapter on the built-in problems."""
    return {
        "model": {**model, "lora": {"r": 4}},
        "method": method,
        "data": {"source": "miniature", "language": language, "limit": 6},
        "sampling": {"max_completion_length": 6},
        "train": {
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 1,
            "learning_rate": 0.05,
            "save_steps": 1,
            "report_to": [],
            "disable_tqdm": True,
            "use_cpu": True,
            "bf16": False,
            **train,
        },
    }
