"""A run's folder: nothing of somebody else's is touched, nothing of its own is lost."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file
from tests.arrange import metrics
from tests.faults.test_settings import BASE

from opsd import VLLMServer
from opsd.recipe import schema as recipes
from opsd.recipe.train import _changed, train
from opsd.runs import checkpoint
from opsd.runs.files import held, read_jsonl
from opsd.runs.folder import RunFolder
from opsd.types import UserError

QUIET = {"use_cpu": True, "disable_tqdm": True, "gradient_checkpointing": False}


def recipe(model: Path, **settings: Any) -> recipes.Recipe:
    settings = {**BASE["train"], **QUIET, "max_steps": 4, "learning_rate": 1e-3, **settings}
    sampling = {"max_completion_length": 6, "temperature": 1.0, "top_p": 1.0, "top_k": 0}
    return recipes.parse(
        {**BASE, "model": {"name": str(model)}, "sampling": sampling, "train": settings}
    )


def assert_equal_ends(one: Path, other: Path) -> None:
    assert metrics(one) == metrics(other)
    rollouts = "rollouts/rank0.jsonl"
    assert (one / rollouts).read_bytes() == (other / rollouts).read_bytes()
    ours, theirs = (load_file(run / "model/model.safetensors") for run in (one, other))
    assert all(ours[name].equal(theirs[name]) for name in theirs)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tiny_folder) -> Path:
    """Four steps, a checkpoint after each, uninterrupted."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    train(recipe(tiny_folder), folder)
    return folder


@pytest.fixture
def half(tmp_path, whole) -> Path:
    """The same run as a kill after its third checkpoint leaves it."""
    folder = Path(shutil.copytree(whole, tmp_path / "half"))
    shutil.rmtree(folder / "checkpoint-4")
    shutil.rmtree(folder / "model")
    return folder


MINE = ("samples.jsonl", "traces/mine.jsonl", "rollouts/human.jsonl", "checkpoint-notes/a.txt")


@pytest.mark.parametrize("name", [*MINE, "recipe.yaml", "thesis.tex", "model/model.safetensors"])
def test_a_folder_with_files_of_the_users_own_is_refused(tmp_path, tiny_folder, name):
    mine = tmp_path / name
    mine.parent.mkdir(parents=True, exist_ok=True)
    mine.write_text("mine\n")
    with pytest.raises(UserError, match=r"choose another --output"):
        train(recipe(tiny_folder), tmp_path)
    assert [f for f in tmp_path.rglob("*") if f.is_file()] == [mine]
    assert mine.read_text() == "mine\n"


def test_files_that_are_put_beside_a_run_stay_when_it_goes_on(half, whole, tiny_folder):
    names = ["mine.jsonl", *MINE, "rollouts/rank0-notes.jsonl"]
    for name in names:
        (half / name).parent.mkdir(exist_ok=True)
        (half / name).write_text("mine\n")
    train(recipe(tiny_folder), half, resume=True)
    assert all((half / name).read_text() == "mine\n" for name in names)
    assert_equal_ends(half, whole)


def test_a_start_that_failed_may_be_mended_in_its_folder(tmp_path, tiny_folder):
    folder = tmp_path / "run"
    with pytest.raises(UserError, match="optim"):
        train(recipe(tiny_folder, optim="galore_adamw"), folder)
    assert (folder / "env.json").is_file()
    train(recipe(tiny_folder, max_steps=1), folder)
    assert (folder / "model" / "model.safetensors").is_file()


def test_going_on_needs_something_to_go_on_from(tmp_path, half, tiny_folder):
    with pytest.raises(UserError, match="contains no run to resume: check --output"):
        train(recipe(tiny_folder), tmp_path / "mistyped", resume=True)
    assert not (tmp_path / "mistyped" / "recipe.yaml").exists()
    for folder in half.glob("checkpoint-*"):
        (folder / "opsd" / "state.json").write_text("{")
    before = {f: f.read_bytes() for f in half.rglob("*.jsonl")}
    with pytest.raises(UserError, match="without a checkpoint to resume from"):
        train(recipe(tiny_folder), half, resume=True)
    assert {f: f.read_bytes() for f in half.rglob("*.jsonl")} == before and before


def test_checkpoints_without_an_optimizer_are_none_to_go_on_from(tmp_path, tiny_folder, capsys):
    own = recipe(tiny_folder, save_only_model=True, max_steps=2)
    train(own, tmp_path / "run")
    told = capsys.readouterr().err
    assert "note: train.save_only_model: no run can be resumed from such checkpoints" in told
    with pytest.raises(UserError, match="without a checkpoint to resume from"):
        train(own, tmp_path / "run", resume=True)
    assert "checkpoint-2 is skipped: it has no optimizer state" in capsys.readouterr().err


DAMAGE = {
    "cut": lambda content: content[: len(content) // 2],
    "flipped": lambda content: content[:-9] + bytes([content[-9] ^ 4]) + content[-8:],
    "zeros": lambda content: bytes(len(content)),
    "empty": lambda content: b"",
    "gone": lambda content: None,
}
PARTS = (
    *("optimizer.pt", "scheduler.pt", "rng_state.pth", "model.safetensors", "config.json"),
    *("trainer_state.json", "opsd/state.json", "tokenizer.json", "opsd/manifest.json"),
)


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("kind", DAMAGE)
def test_any_damaged_part_of_a_checkpoint_is_seen(half, name, kind, capsys):
    file = half / "checkpoint-3" / name
    content = DAMAGE[kind](file.read_bytes())
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    assert checkpoint.newest(half) == half / "checkpoint-2"
    told = capsys.readouterr().err
    assert (name == "opsd/manifest.json" and kind == "gone") or "checkpoint-3 is skipped" in told


def test_a_run_falls_back_to_the_checkpoint_before_and_ends_equal(half, whole, tiny_folder, capsys):
    (half / "checkpoint-3" / "scheduler.pt").unlink()
    train(recipe(tiny_folder), half, resume=True)
    told = capsys.readouterr().err
    assert "checkpoint-3 is skipped: scheduler.pt is missing" in told
    assert_equal_ends(half, whole)


def test_metrics_that_were_cut_short_are_not_padded(half, tiny_folder, capsys):
    file = half / "metrics.jsonl"
    file.write_bytes(file.read_bytes()[:700])
    lines = file.read_bytes().rpartition(b"\n")
    train(recipe(tiny_folder), half, resume=True)
    assert "metrics.jsonl is shorter than at the checkpoint" in capsys.readouterr().err
    assert b"\0" not in file.read_bytes() and file.read_bytes().startswith(lines[0])
    assert [row["step"] for row in read_jsonl(file)][-1] == 4


@pytest.mark.parametrize("how", ["moved", "from elsewhere"])
def test_the_best_checkpoint_is_found_wherever_the_run_is(
    tmp_path, whole, tiny_folder, monkeypatch, how
):
    """A finished run that is resumed keeps its best weights, not its last ones."""
    folder = Path(shutil.copytree(whole, tmp_path / "there" / "run"))
    state = json.loads((folder / "checkpoint-4" / "trainer_state.json").read_text())
    shutil.rmtree(folder / "model")
    monkeypatch.chdir(folder.parent)
    given = Path("run") if how == "moved" else folder
    train(recipe(tiny_folder), given, resume=True)
    best = load_file(folder / f"checkpoint-{state['best_global_step']}" / "model.safetensors")
    kept = load_file(folder / "model" / "model.safetensors")
    assert all(kept[name].equal(best[name]) for name in best)
    assert state["best_global_step"] is not None


def test_a_best_checkpoint_that_is_damaged_is_not_kept(half, tiny_folder, capsys):
    state = json.loads((half / "checkpoint-3" / "trainer_state.json").read_text())
    best = half / f"checkpoint-{state['best_global_step']}"
    assert best.name != "checkpoint-3"
    (best / "model.safetensors").write_bytes(b"nothing")
    train(recipe(tiny_folder), half, resume=True)
    assert "the best checkpoint so far, cannot be used" in capsys.readouterr().err


def test_two_trainings_do_not_share_a_folder(tmp_path, tiny_folder):
    folder = tmp_path / "run"
    script = "import sys, time; from pathlib import Path; from opsd.runs.folder import held\n"
    script += (
        "with held(Path(sys.argv[1]), 'training run'): print('held', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", script, str(folder)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="another training run is writing to"):
            train(recipe(tiny_folder), folder)
        assert list(folder.iterdir()) == []
    finally:
        other.kill()
        other.communicate()
    with RunFolder(folder).held(), RunFolder(folder).held(), pytest.raises(UserError) as refused:
        held(folder, "evaluation").__enter__()
    assert "another evaluation is writing to" in str(refused.value)


# Told to stop


def start(path: Path, output: Path, *flags: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "opsd", "train", str(path), "--output", str(output)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([*command, *flags], stderr=subprocess.PIPE, text=True, env=environment)


@pytest.fixture(scope="module")
def slow_run(tmp_path_factory, tiny_folder) -> tuple[Path, Path]:
    """A recipe whose steps take long enough to be met by a signal, and its run undisturbed."""
    settings = {"max_steps": 8, "save_steps": 100, "eval_steps": 100, "eval_samples": 1}
    content = yaml.safe_load(recipes.dump(recipe(tiny_folder, **settings)))
    content["sampling"]["max_completion_length"] = 120
    folder = tmp_path_factory.mktemp("slow")
    path = folder / "r.yaml"
    path.write_text(yaml.safe_dump(content))
    train(recipes.load(str(path)), folder / "whole")
    return path, folder / "whole"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["term", "int"]
)
def test_a_run_that_is_told_to_stop_saves_first_and_goes_on_equal(tmp_path, slow_run, number, code):
    (path, undisturbed), output = slow_run, tmp_path / "run"
    process = start(path, output)
    log = output / "metrics.jsonl"
    while not (log.is_file() and '"loss"' in log.read_text()) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(number)
    _, told = process.communicate(timeout=600)
    assert process.returncode == code, told
    assert "Traceback" not in told and "stop signal received: saving a checkpoint" in told
    (step,) = checkpoint.complete(output)
    assert 0 < step < 8
    assert f"stopped after step {step}: saved in {output}/checkpoint-{step}" in told
    assert checkpoint.damaged(output / f"checkpoint-{step}") is None
    train(recipes.load(str(path)), output, resume=True)
    assert_equal_ends(output, undisturbed)


def test_a_step_that_is_left_in_the_middle_leaves_no_trace(tmp_path, tiny_folder, monkeypatch):
    """Stopped while the engine writes the third step's tokens, in this process."""
    from opsd.rollout.hf import HFEngine

    generate, calls = HFEngine.generate, []

    def stopped(self: Any, *given: Any, progress: Any = None, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return generate(self, *given, progress=progress, **options)

    folder = tmp_path / "run"
    settings = {"save_strategy": "no", "eval_strategy": "no"}
    own = recipe(tiny_folder, **settings)
    monkeypatch.setattr(HFEngine, "generate", stopped)
    with pytest.raises(SystemExit) as ended:
        train(own, folder)
    monkeypatch.undo()
    assert ended.value.code == 143 and list(checkpoint.complete(folder)) == [2]
    state = checkpoint.load_state(folder / "checkpoint-2")
    spent = [row["generated_tokens"] for row in read_jsonl(folder / "metrics.jsonl")]
    assert state["generated_tokens"] == spent[1]
    train(own, folder, resume=True)
    train(own, tmp_path / "whole")
    assert_equal_ends(folder, tmp_path / "whole")


# Longer


def test_a_finished_run_may_go_on_for_longer(tmp_path, tiny_folder, capsys):
    schedule = {"lr_scheduler_type": "linear", "save_steps": 2, "eval_steps": 2}
    folder = tmp_path / "run"
    train(recipe(tiny_folder, max_steps=4, **schedule), folder)
    capsys.readouterr()
    train(recipe(tiny_folder, max_steps=8, **schedule), folder, resume=True)
    said = "resuming after step 4, up to step 8; learning rate 0.0005 by the schedule 'linear'"
    assert said in capsys.readouterr().err
    rates = [row["learning_rate"] for row in metrics(folder) if "loss" in row]
    assert len(rates) == 8 and rates[3] == pytest.approx(1e-3 / 4)
    expected = [1e-3 * (8 - step) / 8 for step in range(4, 8)]
    assert rates[4:] == pytest.approx(expected), "by the schedule of the longer run, never 0"


def test_what_was_learned_may_not_change(half, tiny_folder):
    with pytest.raises(
        UserError, match=r"with a different recipe .* in train.learning_rate: resume"
    ):
        train(recipe(tiny_folder, learning_rate=2e-3), half, resume=True)
    changed = recipe(tiny_folder).model_copy(update={"method": recipes.method("opsd")})
    with pytest.raises(UserError, match=r"with a different recipe .* in method: resume"):
        train(changed, half, resume=True)
    other = {"save_steps": 2, "eval_steps": 2, "trace_steps": 0, "max_steps": 5}
    train(recipe(tiny_folder, **other), half, resume=True)


def test_a_run_of_python_does_not_begin_in_anothers_folder(half, tiny_folder):
    from tests.arrange import config, problems

    from opsd import OPSDTrainer, methods

    trainer = OPSDTrainer(str(tiny_folder), methods.opsd(), config(half), problems(4))
    before = (half / "metrics.jsonl").read_bytes()
    with pytest.raises(UserError, match="contains a run already"):
        trainer.train()
    assert (half / "metrics.jsonl").read_bytes() == before
    assert RunFolder(half).begun


def test_a_resume_that_is_refused_changes_nothing(half, tiny_folder):
    before = {f: f.read_bytes() for f in half.rglob("*.jsonl")}
    with pytest.raises(UserError, match="a step had 2 rollouts"):
        train(recipe(tiny_folder, per_device_train_batch_size=4), half, resume=True)
    assert {f: f.read_bytes() for f in half.rglob("*.jsonl")} == before and before


def test_what_was_saved_after_the_step_that_a_run_goes_on_from_does_not_count(
    half, whole, tiny_folder
):
    (half / "checkpoint-3" / "optimizer.pt").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"optimizer.pt is damaged"):
        own_trainer(half, tiny_folder).train(str(half / "checkpoint-3"))
    own_trainer(half, tiny_folder, max_steps=2).train(str(half / "checkpoint-1"))
    assert list(checkpoint.complete(half)) == [1, 2]
    assert [row["step"] for row in metrics(half) if "loss" in row] == [1, 2]


def own_trainer(folder: Path, model: Path, **settings: Any) -> Any:
    from opsd.data import problems
    from opsd.data.filters import DataReport
    from opsd.recipe.train import make_trainer

    own = recipe(model, **settings)
    return make_trainer(own, folder, *problems.load_problems(own.data, DataReport()))


def test_the_best_of_steps_that_were_scored_and_not_saved_is_no_checkpoint(tmp_path, tiny_folder):
    """Scored at every step, saved at every second: the same model in the end, resumed or not."""
    often = {"eval_steps": 1, "save_steps": 2, "learning_rate": 3e-3}
    train(recipe(tiny_folder, max_steps=6, **often), tmp_path / "whole")
    folder = Path(shutil.copytree(tmp_path / "whole", tmp_path / "half"))
    for later in ("checkpoint-6", "checkpoint-4", "model"):
        shutil.rmtree(folder / later)
    train(recipe(tiny_folder, max_steps=6, **often), folder, resume=True)
    assert_equal_ends(folder, tmp_path / "whole")


def test_rollouts_of_processes_that_are_gone_stay(tmp_path):
    run = RunFolder(tmp_path)
    for rank in (0, 1):
        run.append(f"rollouts/rank{rank}.jsonl", [{"step": 1}])
    run.append("metrics.jsonl", [{"step": 1}])
    two = run.sizes(0, 2) | run.sizes(1, 2)
    assert set(run.sizes(1, 2)) == {"rollouts/rank1.jsonl"} and two == run.sizes(0, 1)
    run.append("rollouts/rank0.jsonl", [{"step": 2}])
    run.cut_back(run.sizes(0, 1))
    assert (tmp_path / "rollouts" / "rank1.jsonl").is_file()


def test_a_first_step_that_failed_may_be_repeated(tmp_path, tiny_folder, monkeypatch):
    from opsd.training.trainer import OPSDTrainer

    folder = tmp_path / "run"
    inner = OPSDTrainer._pass

    def fails(self: Any, *given: Any) -> Any:
        inner(self, *given)
        raise RuntimeError("no memory")

    monkeypatch.setattr(OPSDTrainer, "_pass", fails)
    with pytest.raises(RuntimeError, match="no memory"):
        train(recipe(tiny_folder), folder)
    assert (folder / "rollouts" / "rank0.jsonl").stat().st_size
    monkeypatch.undo()
    train(recipe(tiny_folder, max_steps=1), folder)
    rows = list(read_jsonl(folder / "rollouts" / "rank0.jsonl"))
    assert [row["step"] for row in rows] == [0, 0]


def test_a_base_may_be_scored_before_it_is_trained(tmp_path, tiny_folder):
    trainer = own_trainer(tmp_path / "run", tiny_folder, max_steps=1)
    trainer.evaluate()
    trainer.train()
    steps = [row["step"] for row in metrics(tmp_path / "run") if "eval_avg@k" in row]
    assert steps == [0, 0, 1]  # by hand, at the start, at the end


def test_a_signal_that_comes_after_the_last_step_is_not_lost(tmp_path, tiny_folder):
    from transformers import TrainerCallback

    class Late(TrainerCallback):
        def on_train_end(self, *args: Any, **kwargs: Any) -> None:
            os.kill(os.getpid(), signal.SIGINT)

    trainer = own_trainer(tmp_path / "run", tiny_folder, max_steps=1)
    trainer.add_callback(Late())
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert trainer.evaluate()["eval_avg@k"] >= 0
    assert list(checkpoint.complete(tmp_path / "run")) == [1]


@pytest.mark.parametrize("there", [False, True])
def test_a_model_whose_saving_ends_in_the_middle_leaves_no_half_of_a_file(
    tmp_path, tiny_folder, monkeypatch, there
):
    trainer = own_trainer(tmp_path / "run", tiny_folder)
    model = tmp_path / "run" / "model"
    if there:
        trainer.save_model(str(model))
        (model / "notes.txt").write_text("mine")
    before = {file.name: file.read_bytes() for file in model.iterdir()} if there else {}

    def half(self: Any, folder: str, **options: Any) -> None:
        (Path(folder)).mkdir(parents=True, exist_ok=True)
        (Path(folder) / "config.json").write_text("{")
        raise KeyboardInterrupt

    monkeypatch.setattr(type(trainer.model), "save_pretrained", half)
    with pytest.raises(KeyboardInterrupt):
        trainer.save_model(str(model))
    now = {file.name: file.read_bytes() for file in model.iterdir()} if model.is_dir() else {}
    assert now == before
    monkeypatch.undo()
    trainer.save_model(str(model))
    assert {*before, "model.safetensors", "config.json"} <= {file.name for file in model.iterdir()}
    assert not (model.parent / ".model.part").exists()


def test_servers_may_have_moved_and_another_engine_is_another_recipe(tiny_folder):
    first, moved = (
        recipe(tiny_folder).model_copy(update={"engine": VLLMServer(url, folder=folder)})
        for url, folder in (("http://a:1", None), (("http://b:1", "http://b:2"), "shared"))
    )
    assert _changed(first, moved) == []
    assert _changed(recipe(tiny_folder), moved) == ["engine"]
