"""Methods whose signal comes of answers, hints and other problems, that retrain, or that are of
masked diffusion models, from recipe to pages by the commands that everybody types."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from opsd.cli.commands import main
from opsd.methods import FUNCTIONS

GROUPED = {"group": 4}
METHODS: dict[str, dict[str, Any]] = {
    "rlcsd": GROUPED,
    "opsd_ectr": GROUPED,
    "sdpg": GROUPED,
    "u_opsd": GROUPED,
    "op2sd": {},
    "opsa": {},
    "nsd": {"max_tokens": 32},
    "spd": {"examples": 4},
    "ssd": {},
    "d_opsd": {"decoding": {"block_length": 4}, "attempts": 2, "reuse": 1},
    "dopsd_trajectory": {},
    "trajectory_grpo": GROUPED | {"states": 4},
    "diffu_grpo": GROUPED,
    "diffusion_sft": {},
}


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path):
    """Runs a command in this process; it has to end well."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["opsd", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        shown = capfd.readouterr()
        assert not stop.value.code, shown.err
        return shown.out

    return run


TRAIN = {
    "max_steps": 2,
    "per_device_train_batch_size": 16,
    "gradient_accumulation_steps": 1,
    "gradient_checkpointing": False,
    "learning_rate": 1e-3,
    "save_steps": 2,
    "trace_steps": 1,
    "collapse": "ignore",
    "use_cpu": True,
}
CONTENT = {
    "sampling": {"max_completion_length": 32, "temperature": 1.0, "top_p": 1.0, "top_k": 0},
    "train": TRAIN,
}


def data_of(world: str) -> dict[str, Any]:
    return {"source": world, "language": "eng" if "diffusion" in world else "swa", "limit": 16}


def looked_at(command: Any, run: str, name: str, world: str = "miniature") -> None:
    """What people do with a run folder."""
    rows = [json.loads(line) for line in Path(run, "metrics.jsonl").read_text().splitlines()]
    assert sum(row.get("rollouts_learned", 0) for row in rows) > 0
    scored = command(
        "evaluate", f"{run}/model", "--data", world, "--limit", 2, "--samples", 1,
        "--budget", 32, "--json",
    )  # fmt: skip
    assert json.loads(scored)["results"][0]["n_problems"] == 2
    command("report", run)
    assert name in Path(run, "report.html").read_text("utf-8")
    command("inspect", run, "--checkpoint", "2", "--problems", 1)
    assert Path(run, "inspect.html").stat().st_size > 10_000


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_previewed_trained_measured_reported_and_looked_into(command, name: str):
    of_canvas = FUNCTIONS[name]().source.rows.of_canvas
    model, world = ("miniature-diffusion",) * 2 if of_canvas else ("miniature-tiny", "miniature")
    method = {"name": name, **METHODS[name]}
    content = {"model": model, "method": method, "data": data_of(world), **CONTENT}
    Path("recipe.yaml").write_text(yaml.safe_dump(content))
    assert name in command("preview", "recipe.yaml")
    command("train", "recipe.yaml", "--output", "run")
    looked_at(command, "run", name, world)


def test_two_models_that_teach_each_other_are_two_runs_like_any(command):
    content = {
        "model": "miniature-swahili",
        "peers": {"swahili": {}, "yoruba": {"model": "miniature-yoruba"}},
        "method": {"name": "opcod", "group": 4, "max_tokens": 64},
        "data": data_of("miniature"),
        **CONTENT,
    }
    Path("recipe.yaml").write_text(yaml.safe_dump(content))
    assert "opcod" in command("preview", "recipe.yaml")
    command("train", "recipe.yaml", "--output", "run")
    for peer in ("swahili", "yoruba"):
        looked_at(command, f"run/{peer}", "opcod")
        command("export", f"run/{peer}", f"exported/{peer}")
        assert Path("exported", peer, "model.safetensors").is_file()
