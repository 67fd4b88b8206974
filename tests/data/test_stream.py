"""Training from a stream: two processes share its rows, and a resumed run finds its place again."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml
from tests.arrange import free_port

from opsd.runs.files import read_jsonl

STEPS, ROLLOUTS, ROWS = 4, 2, 40


def recipe(folder: Path, model: Path) -> Path:
    rows = [
        {"problem": f"What is {i} + 1?", "solution": f"\\boxed{{{i + 1}}}", "correct": i % 5 > 0}
        for i in range(ROWS)
    ]
    source = folder / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    content = {
        "model": {"name": str(model), "lora": {"r": 4, "lora_alpha": 8}},
        "method": "opsd",
        "data": {
            "source": str(source),
            "streaming": True,
            "dev": 3,
            "filters": {"require": ["correct"]},
        },
        "sampling": {"max_completion_length": 6},
        "train": {
            "max_steps": STEPS,
            "per_device_train_batch_size": ROLLOUTS,
            "gradient_accumulation_steps": 1,
            "gradient_checkpointing": False,
            "save_steps": 2,
            "eval_steps": 2,
            "eval_samples": 1,
            "use_cpu": True,
        },
    }
    path = folder / "streamed.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def launch(recipe: Path, output: Path, *flags: str) -> None:
    """The command on two processes."""
    port = free_port()
    command = [sys.executable, "-m", "opsd", "train", str(recipe), "--output", str(output)]
    processes = [
        subprocess.Popen(
            [*command, "--threads", "1", *flags],
            env={
                **os.environ,
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": "2",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "HF_HUB_OFFLINE": "1",
            },
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        for process in processes:
            _, errors = process.communicate(timeout=1200)
            assert process.returncode == 0, errors[-4000:]
    finally:
        for process in processes:
            process.kill()


def made(run: Path) -> dict[tuple, tuple]:
    """Every rollout of every process."""
    return {
        (rank, row["step"], row["problem"]): (row["prompt"], row["completion_ids"])
        for rank in (0, 1)
        for row in read_jsonl(run / "rollouts" / f"rank{rank}.jsonl")
    }


@pytest.mark.slow
def test_two_processes_share_the_rows_and_a_resumed_run_goes_on_with_the_next(
    tmp_path: Path, tiny_folder: Path
):
    path = recipe(tmp_path, tiny_folder)
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    launch(path, whole)
    rollouts = made(whole)
    counted = json.loads((whole / "data.json").read_text())
    assert counted["dev"] == 3
    # The first process's: what it learned from, and the rows that it passed by on the way.
    assert counted["kept"]["eng"] == STEPS * ROLLOUTS
    assert counted["rows"] >= STEPS * ROLLOUTS + counted["dropped"][0]["count"]
    assert counted["dropped"][0]["reason"] == "'correct' is not true"
    assert len(rollouts) == 2 * STEPS * ROLLOUTS
    assert set(Counter(problem for _, _, problem in rollouts).values()) == {1}
    shutil.copytree(whole, resumed)
    shutil.rmtree(resumed / f"checkpoint-{STEPS}")
    launch(path, resumed, "--resume")
    assert made(resumed) == rollouts
    assert json.loads((resumed / "data.json").read_text()) == counted
