"""Several processes that are told to stop save their last step together, and go on equal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from tests.arrange import free_port, metrics
from tests.faults.test_folders import recipe

from opsd.recipe import schema as recipes
from opsd.runs import checkpoint


def start(path: Path, output: Path, *flags: str) -> list[subprocess.Popen[str]]:
    """One process per rank, as a launcher would start them."""
    port = str(free_port())
    command = [sys.executable, "-m", "opsd", "train", str(path), "--output", str(output), *flags]
    known = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    environments = [
        {**os.environ, **known, "RANK": rank, "LOCAL_RANK": rank, "OMP_NUM_THREADS": "1"}
        for rank in "01"
    ]
    return [
        subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        for environment in environments
    ]


def ended(processes: list[subprocess.Popen[str]]) -> tuple[list[int], str]:
    told = [process.communicate(timeout=1200)[1] for process in processes]
    return [process.returncode for process in processes], "".join(told)


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all_of_them(tmp_path, tiny_folder):
    settings = {"max_steps": 8, "save_steps": 100, "eval_steps": 100, "use_cpu": True}
    content = yaml.safe_load(recipes.dump(recipe(tiny_folder, **settings)))
    content["sampling"]["max_completion_length"] = 120
    path, output, whole = tmp_path / "r.yaml", tmp_path / "run", tmp_path / "whole"
    path.write_text(yaml.safe_dump(content))
    processes = start(path, output)
    while not (output / "metrics.jsonl").is_file() and processes[0].poll() is None:
        time.sleep(0.02)
    processes[1].send_signal(signal.SIGTERM)
    codes, told = ended(processes)
    assert codes == [143, 143], told
    assert "Traceback" not in told
    (step,) = checkpoint.complete(output)
    assert 0 < step < 8 and f"saved in {output}/checkpoint-{step}" in told
    codes, told = ended(start(path, output, "--resume"))
    assert codes == [0, 0], told
    codes, told = ended(start(path, whole))
    assert codes == [0, 0], told
    assert metrics(output) == metrics(whole)
    for rank in (0, 1):
        name = f"rollouts/rank{rank}.jsonl"
        assert (output / name).read_bytes() == (whole / name).read_bytes()
