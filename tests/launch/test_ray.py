"""Trainers and engines on a Ray cluster of this machine: a training whose actors or nodes are
killed is the undisturbed one, and whatever ends the launch, nothing is left running."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from opsd.recipe.files import launcher
from opsd.runs import checkpoint
from opsd.runs.files import read_jsonl
from opsd.validation import mapping

pytest.importorskip("ray", reason="ray is installed with pip install -e '.[ray]'")
pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
STEPS = 12
MARK = "OPSD_LAUNCHED_BY"
LONGEST = 900.0
RECIPE = {
    "model": {"name": "miniature-tiny", "lora": {"r": 4, "lora_alpha": 8}},
    "method": "opsd",
    "data": {"source": "miniature", "language": "swa", "limit": 40},
    "sampling": {"max_completion_length": 8, "top_k": 0, "top_p": 1.0, "temperature": 1.0},
    "train": {
        "max_steps": STEPS,
        "rollouts_per_step": 4,
        "per_device_train_batch_size": 2,
        "learning_rate": 0.01,
        "logging_steps": 1,
        "save_steps": 2,
        "use_cpu": True,
        "report_to": [],
    },
}
"""An adapter, trained by rollouts that another process writes, of which every draw counts."""
SERVER = f"{shlex.quote(sys.executable)} -m tests.launch.serve"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(RECIPE), "utf-8")
    return file


def environment(place: Path) -> dict[str, str]:
    given = filter(None, [os.environ.get("PYTHONPATH")])
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT), *given])
    return os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", MARK: str(place)}


@contextlib.contextmanager
def launched(recipe: Path, output: Path, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """`opsd launch` with two trainers and two engines. What it says is in `log` beside the run."""
    command = [sys.executable, "-m", "opsd", "launch", str(recipe), "--output", str(output)]
    command += ["--trainers", "2", "--engines", "2", *options]
    with (output.parent / "log").open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env=environment(output.parent), start_new_session=True
        )
    try:
        yield process
    finally:
        for left in (process, *ours(output.parent)):
            with contextlib.suppress(psutil.NoSuchProcess):
                left.kill()
        process.wait()


def ours(place: Path) -> list[psutil.Process]:
    """All processes that descend from a launch, whoever their parent is by now."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(MARK) == str(place) and process.status() != "zombie":
                found.append(process)
    return found


def wait_for(what: Callable[[], bool], launch: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + LONGEST
    while not what():
        assert launch.poll() is None, "it has ended"
        assert time.monotonic() < until
        time.sleep(0.1)


def actor_of(place: Path, rank: str | None, word: str) -> psutil.Process:
    """The actor whose command has a word, and is of a rank."""
    for process in ours(place):
        with contextlib.suppress(psutil.Error):
            line = process.cmdline()
            guard = any(part.endswith("guard.py") for part in line)
            if guard and word in line and process.environ().get("RANK") == rank:
                parent = process.parent()
                assert parent is not None
                return parent
    raise AssertionError(f"no actor of {word} {rank}")


@contextlib.contextmanager
def suspended(place: Path) -> Iterator[None]:
    """All processes of the ranks stand still within the context."""
    ranks = []
    for process in ours(place):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "RANK" in process.environ():
                process.suspend()
                ranks.append(process)
    try:
        yield
    finally:
        for process in ranks:
            process.resume()


def steps(output: Path) -> int:
    file = output / "metrics.jsonl"
    return sum("loss" in row for row in read_jsonl(file)) if file.is_file() else 0


def logged(output: Path, key: str) -> list[float]:
    return [row[key] for row in read_jsonl(output / "metrics.jsonl") if "loss" in row]


def test_a_training_whose_actors_are_killed_is_the_undisturbed_one(recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent / "sharded"))
    config = tmp_path / "fsdp2.yaml"
    exact = mapping(launcher("fsdp2")) | {"mixed_precision": "no"}
    config.write_text(yaml.safe_dump(exact), "utf-8")
    options = ("--config", str(config))
    lines = assert_undisturbed(recipe, tmp_path, SERVER, "tests.launch.serve", *options)
    assert "engine 1: serving" in lines
    for rank in (0, 1):
        assert f"rank {rank}: sharded: Qwen3DecoderLayer" in lines


def assert_undisturbed(recipe: Path, tmp_path: Path, server: str, word: str, *options: str) -> str:
    """Launches a recipe, kills a trainer's actor and then an engine's, whose command has a word,
    and compares with one process that nobody disturbs. Returns what the launch has said."""
    place = tmp_path / "ray"
    place.mkdir()
    output = place / "run"
    with launched(recipe, output, "--engine-command", server, *options) as launch:
        wait_for(lambda: bool(checkpoint.complete(output)) and steps(output) >= 3, launch)
        actor_of(place, "1", "train").kill()
        wait_for(lambda: "start again (1 of 3)" in told(place), launch)
        # A rank that still waits for its engines would not say that it has lost one.
        wait_for(lambda: "rank 0: resuming after step " in told(place), launch)
        actor_of(place, None, word).kill()
        wait_for(lambda: "1 of 2 servers are in use" in told(place), launch)
        with suspended(place):  # or training may end before the engine is up again
            wait_for(lambda: told(place).count(" is up at ") == 3, launch)
        assert launch.wait(LONGEST) == 0, told(place)[-4000:]
        assert gone(place), told(place)[-2000:]
    lines = told(place)
    assert lines.count("its actor is gone") == 2 and lines.count("start again") == 1
    ups = re.findall(r"^engine (\d) is up at (\S+)$", lines, re.M)
    assert len(set(ups)) == 2  # at the same address again
    assert re.search(r"^engine \d has ended with exit code 137: it is started again$", lines, re.M)
    assert "is back, 2 of 2 servers are in use" in lines
    assert "rank 1: " in lines
    assert not (place / "run.weights").exists()
    assert_same(recipe, output, tmp_path)
    return lines


def assert_same(recipe: Path, output: Path, tmp_path: Path) -> None:
    """A run has the losses of one process that nobody disturbs."""
    whole = tmp_path / "whole"
    subprocess.run(
        [sys.executable, "-m", "opsd", "train", str(recipe), "--output", str(whole)],
        env=environment(tmp_path),
        check=True,
        capture_output=True,
    )
    for key in ("loss", "grad_norm"):
        one = logged(whole, key)
        assert logged(output, key) == pytest.approx(one, abs=1e-4) and len(set(one)) == STEPS


def test_a_training_that_loses_a_node_is_the_undisturbed_one(recipe, tmp_path, monkeypatch):
    from ray.cluster_utils import Cluster

    place = tmp_path / "ray"
    place.mkdir()
    output = place / "run"
    for name, value in environment(place).items():  # actors have those of their node
        monkeypatch.setenv(name, value)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        nodes = [cluster.add_node(num_cpus=2) for _ in range(2)]
        options = ("--engine-command", SERVER, "--address", cluster.address)
        options += ("--strategy", "SPREAD")
        with launched(recipe, output, *options) as launch:
            wait_for(lambda: bool(checkpoint.complete(output)) and steps(output) >= 3, launch)
            cluster.remove_node(nodes[0], allow_graceful=False)
            wait_for(lambda: "its actor is gone" in told(place), launch)
            cluster.add_node(num_cpus=2)
            assert launch.wait(LONGEST) == 0, told(place)[-4000:]
    finally:
        cluster.shutdown()
    lines = told(place)
    assert lines.count("all ranks start again") == 1
    for lost in ("rank", "engine"):  # one of each on either node
        assert re.search(rf"^{lost} \d: its actor is gone$", lines, re.M)
    assert_same(recipe, output, tmp_path)


def told(place: Path) -> str:
    return (place / "log").read_text("utf-8", "replace")


def gone(place: Path) -> bool:
    """Whether nothing runs any more, or will in a moment."""
    until = time.monotonic() + LONGEST
    while ours(place) and time.monotonic() < until:
        time.sleep(0.2)
    return not ours(place)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_whatever_ends_the_launch_nothing_is_left(recipe, tmp_path, number, code):
    output = tmp_path / "run"
    with launched(recipe, output, "--engine-command", SERVER) as launch:
        wait_for(lambda: steps(output) >= 1, launch)
        launch.send_signal(number)
        assert launch.wait(LONGEST) == code, told(tmp_path)[-4000:]
        assert gone(tmp_path), [process.cmdline() for process in ours(tmp_path)]
    if number == signal.SIGTERM:
        assert max(checkpoint.complete(output)) == steps(output) < STEPS
