"""Two training processes, each with a vLLM of its own, learn what one learns."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from peft import LoraConfig
from tests.arrange import config, problems
from tests.vllm.test_vllm import WARM

from opsd import VLLM, OPSDTrainer
from opsd.runs.files import read_jsonl

pytest.importorskip("vllm", reason="vllm is not installed: it has an environment of its own")


def work(model: str, folder: Path) -> None:
    world = int(os.environ["WORLD_SIZE"])
    trainer = OPSDTrainer(
        model,
        WARM,
        config(
            folder,
            max_steps=2,
            temperature=1e-3,
            learning_rate=0.05,
            per_device_train_batch_size=8 // world,
        ),
        problems(16),
        peft_config=LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear"),
        engine=VLLM(),
    )
    trainer.train()


def test_two_processes_each_with_vllm_equal_one(tiny_folder, tmp_path):
    here = [__file__, str(tiny_folder)]
    root = str(Path(__file__).parents[2])
    environment = os.environ | {"PYTHONPATH": root, "WORLD_SIZE": "1", "OMP_NUM_THREADS": "1"}
    several = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    logged = []
    for name, command in (("one", [sys.executable]), ("two", several)):
        done = subprocess.run(
            [*command, *here, str(tmp_path / name)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=1800,
        )
        assert done.returncode == 0, done.stderr[-4000:]
        rows = [row for row in read_jsonl(tmp_path / name / "metrics.jsonl") if "loss" in row]
        logged.append([row[key] for row in rows for key in ("loss", "grad_norm")])
    assert len(logged[0]) == 4 and min(logged[0]) > 0, json.dumps(logged)
    assert logged[1] == pytest.approx(logged[0], rel=1e-4)


if __name__ == "__main__":
    work(sys.argv[1], Path(sys.argv[2]))
