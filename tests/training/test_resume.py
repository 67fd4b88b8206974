"""`kill -9` at random moments, then `--resume`: the run ends as if nothing had happened."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from tests.arrange import config, metrics, problems
from transformers import TrainerCallback

from opsd import methods
from opsd.runs import checkpoint
from opsd.runs.files import read_jsonl
from opsd.runs.folder import RunFolder
from opsd.training.trainer import OPSDTrainer
from opsd.types import UserError

STEPS = 12


def recipe(tmp_path: Path, model: Path) -> Path:
    """Everything that has state: reused rollouts, a second signal, an EMA teacher, dev scores."""
    content = {
        "model": str(model),
        "method": {
            "name": "grpo",
            "group": 2,
            "reuse": 3,
            "signal": {
                "type": "sum",
                "terms": [
                    [1.0, {"type": "advantage"}],
                    [
                        0.5,
                        {
                            "type": "distill",
                            "teacher": {
                                "context": {"type": "solution"},
                                "weights": {"type": "ema", "decay": 0.5},
                            },
                        },
                    ],
                ],
            },
        },
        "data": {"source": "miniature", "language": "swa", "limit": 20, "dev": 2},
        "sampling": {"max_completion_length": 8, "top_k": 0, "top_p": 1.0, "temperature": 1.0},
        "train": {
            "max_steps": STEPS,
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 2,
            "learning_rate": 1e-3,
            "save_steps": 1,
            "eval_steps": 3,
            "eval_samples": 2,
            "gradient_checkpointing": False,
        },
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


KILLED = """
import json, random, sys
from pathlib import Path
from tests.faults import processes
from tests.faults.processes import Kill
from opsd.runs import checkpoint

recipe, folder = map(Path, sys.argv[1:])
processes.prepare()


def ran(output, *flags, kill=None):
    arguments = ["train", str(recipe), "--output", str(output), "--threads", "1", *flags]
    return processes.forked(arguments, folder, kill)


def going_on():
    global broken
    if checkpoint.complete(broken):
        return broken, "--resume"
    broken = folder / f"broken-{kills}"  # nothing was saved: a new run, in a new folder
    return (broken,)


whole = ran(folder / "whole")
assert whole.code == 0, whole.told
chance, broken, kills = random.Random(), folder / "broken", 0
while kills < 4:
    # By the clock, and right before a file is changed.
    late = Kill(9, seconds=chance.uniform(0.3, 0.6) * whole.seconds)
    early = Kill(9, change=chance.randint(1, whole.changes // 2))
    kill = chance.choice([late, early]) if kills else early  # by the clock it may have ended
    ended = ran(*going_on(), kill=kill)
    if ended.code == 0:
        break
    assert ended.code == -9, ended.told
    kills += 1
else:
    ended = ran(*going_on())
    assert ended.code == 0, ended.told
print(json.dumps([kills, str(broken)]))
"""
"""Trains once undisturbed and once killed again and again. A process of its own: one in which torch
has computed cannot be forked, and one that is forked need not import."""


@pytest.mark.slow
def test_a_run_killed_at_random_moments_ends_as_the_uninterrupted_one(tmp_path, tiny_folder):
    path = recipe(tmp_path, tiny_folder)
    made = subprocess.run(
        [sys.executable, "-c", KILLED, str(path), str(tmp_path)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert made.returncode == 0, made.stderr
    kills, folder = json.loads(made.stdout)
    whole, broken = tmp_path / "whole", Path(folder)
    print(f"killed {kills} times")
    assert kills
    assert metrics(broken) == metrics(whole)
    for name in ("rollouts/rank0.jsonl",):
        assert (broken / name).read_bytes() == (whole / name).read_bytes()
    for name in ("model/model.safetensors", f"checkpoint-{STEPS}/opsd/teacher-0-ema.safetensors"):
        ours, theirs = load_file(broken / name), load_file(whole / name)
        assert all(ours[key].equal(theirs[key]) for key in theirs)


def checkpoint_of(run: Path, step: int) -> Path:
    """A checkpoint's files, sealed."""
    folder = run / f"checkpoint-{step}"
    checkpoint.save(folder, {"sizes": {}}, {})
    (folder / "optimizer.pt").write_text("moments")
    save_file({"w": torch.zeros(3)}, folder / "model.safetensors")
    checkpoint.seal(folder)
    return folder


def test_only_a_checkpoint_that_is_whole_counts(tmp_path, capsys):
    for step in (2, 10, 40, 50):
        checkpoint_of(tmp_path, step)
    (tmp_path / "checkpoint-60" / "opsd").mkdir(parents=True)
    assert checkpoint.newest(tmp_path) == tmp_path / "checkpoint-50"
    assert "checkpoint-60 is skipped: it is incomplete" in capsys.readouterr().err
    (tmp_path / "checkpoint-50" / "opsd" / "manifest.json").unlink()
    (tmp_path / "checkpoint-40" / "optimizer.pt").unlink()
    weights = tmp_path / "checkpoint-10" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert checkpoint.newest(tmp_path) == tmp_path / "checkpoint-2"
    told = capsys.readouterr().err
    assert "checkpoint-50 is skipped: it is incomplete" in told
    assert "checkpoint-40 is skipped: optimizer.pt is missing" in told
    assert "checkpoint-10 is skipped: model.safetensors is damaged" in told
    assert list(checkpoint.complete(tmp_path)) == [2, 10, 40]


def test_what_of_a_checkpoint_has_changed_is_found_among_some_of_its_files(tmp_path):
    folder = checkpoint_of(tmp_path, 1)
    (folder / "optimizer.pt").write_text("other")
    assert checkpoint.changed(folder) == "optimizer.pt is damaged"
    assert checkpoint.changed(folder, {"model.safetensors"}) is None
    (folder / "opsd" / "manifest.json").write_text("{")
    assert checkpoint.changed(folder, set()) == "opsd/manifest.json is damaged"


def test_journals_are_cut_back_to_the_checkpoint(tmp_path):
    run = RunFolder(tmp_path)
    run.append("metrics.jsonl", [{"step": 1}])
    sizes = run.sizes()
    run.append("metrics.jsonl", [{"step": 2}])
    run.append("rollouts/rank0.jsonl", [{"step": 2}])
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"half')
    assert [row["step"] for row in read_jsonl(tmp_path / "metrics.jsonl")] == [1, 2]
    run.cut_back(sizes)
    assert (tmp_path / "metrics.jsonl").read_text() == json.dumps({"step": 1}) + "\n"
    assert not (tmp_path / "rollouts" / "rank0.jsonl").exists()


def test_what_a_kill_left_before_its_first_write_is_no_run_and_nobody_elses(tmp_path):
    (tmp_path / "env.json").write_text("{}")
    (tmp_path / "traces").mkdir()
    (tmp_path / "metrics.jsonl").touch()
    run = RunFolder(tmp_path)
    assert not run.begun
    run.refuse_taken()
    (tmp_path / "traces" / "mine.txt").write_text("notes")
    with pytest.raises(UserError, match="contains traces, and is not a run folder"):
        run.refuse_taken()


class StopAfter(TrainerCallback):
    """A signal that comes when a step is written down, before its dev problems are scored."""

    def __init__(self, step: int) -> None:
        self.step, self.trainer = step, None

    def on_log(self, args, state, control, logs=None, **kwargs):
        if state.global_step == self.step and "loss" in logs:
            self.trainer.stop.number = signal.SIGTERM


def scored(folder: Path, tiny_folder: Path, stop: int = 0, **resume: bool) -> None:
    """Four steps, dev scores and a checkpoint after every second one."""
    settings = {"eval_strategy": "steps", "eval_steps": 2, "eval_samples": 1, "save_steps": 2}
    args = config(folder, max_steps=4, save_strategy="steps", **settings)
    told = StopAfter(stop)
    trainer = OPSDTrainer(
        *(str(tiny_folder), methods.sft(), args, problems(8), problems(2, "zul")),
        callbacks=[told],
    )
    told.trainer = trainer
    trainer.train(**resume)


@pytest.mark.parametrize("stop", [2, 4])
def test_dev_scores_that_a_signal_came_before_are_caught_up_with(tmp_path, tiny_folder, stop):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    scored(whole, tiny_folder)
    with pytest.raises(SystemExit, match="143"):
        scored(broken, tiny_folder, stop)
    assert [row["step"] for row in metrics(broken)][-2:] != [stop, stop]
    scored(broken, tiny_folder, resume_from_checkpoint=True)
    assert [row["step"] for row in metrics(whole)] == [1, 2, 2, 3, 4, 4]
    assert metrics(broken) == metrics(whole)
