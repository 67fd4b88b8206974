"""Worker processes: what they report, what becomes of a failure, that none outlives its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from opsd.experiments import pool
from opsd.experiments.pool import run_all, tell
from opsd.types import RunFailed

PROGRAM = """
import sys
from tests.experiments.test_pool import Sleeper, asleep
from opsd.experiments.pool import run_all

if __name__ == "__main__":
    try:
        print("begins", flush=True)
        list(run_all([Sleeper(sys.argv[1] + f"/{i}") for i in range(2)], asleep))
    except KeyboardInterrupt:
        sys.exit(print("interrupted", file=sys.stderr) or 130)
"""


@dataclass(frozen=True)
class Sleeper:
    label: str
    size: int = 1
    unit = "step"


def asleep(job: Sleeper) -> None:
    """Leaves its process number, and takes its time."""
    Path(job.label).write_text(str(os.getpid()))
    time.sleep(600)


def twice(job: Sleeper) -> int:
    if job.label == "bad":
        raise ValueError("this one is bad")
    tell(job.label, job.size // 2, "training")
    if job.label == "slow":
        time.sleep(2)
    tell(job.label, job.size, "dev 0.5")
    return 2 * job.size


def test_every_job_comes_with_what_has_become_of_it():
    jobs = [Sleeper("a", 1), Sleeper("b", 5)]
    assert dict(run_all(jobs, twice)) == {jobs[0]: 2, jobs[1]: 10}
    assert list(run_all([], twice)) == []


def test_without_a_terminal_lines_say_what_each_job_does(capsys, monkeypatch):
    monkeypatch.setattr(pool, "SELDOM", 0.0)
    list(run_all([Sleeper("slow", 6)], twice))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "0/1 arms; starting" and "0/1 arms; slow 3/6 steps training" in lines
    assert "slow: dev 0.5" in lines


def test_a_failure_ends_all_with_its_error():
    with pytest.raises(ValueError, match="this one is bad"):
        list(run_all([Sleeper("bad"), *(Sleeper(f"g{i}") for i in range(4))], twice))


def killed(job: Sleeper) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_was_ended_from_outside_is_told_in_one_line():
    with pytest.raises(RunFailed, match=r"killed from outside.*same command again"):
        list(run_all([Sleeper("a"), Sleeper("b")], killed))


def test_no_worker_outlives_a_parent_that_was_killed(tmp_path: Path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    parent = subprocess.Popen([sys.executable, str(program), str(tmp_path)], env=environment)
    files = [tmp_path / "0", tmp_path / "1"]
    files = files[: min(2, os.cpu_count() or 1)]
    assert _within(600, lambda: all(file.is_file() and file.read_text() for file in files))
    workers = [int(file.read_text()) for file in files]
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    assert _within(600, lambda: not any(_alive(worker) for worker in workers))


@pytest.mark.parametrize(
    ("seconds", "send"),
    [(0.2, os.killpg), (1.0, os.killpg), (3.0, os.killpg), (None, os.killpg), (None, os.kill)],
    ids=["early", "1 s", "3 s", "at work", "parent only"],
)
def test_ctrl_c_is_told_by_nobody_but_the_parent(tmp_path: Path, seconds: float | None, send):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    parent = subprocess.Popen(
        [sys.executable, str(program), str(tmp_path)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert parent.stdout is not None and parent.stdout.readline() == "begins\n"
    if seconds is None:
        assert _within(600, lambda: (tmp_path / "0").is_file())
    else:
        time.sleep(seconds)
    send(parent.pid, signal.SIGINT)
    _, errors = parent.communicate(timeout=300)
    told = [line for line in errors.splitlines() if " arms; " not in line]  # how far it has come
    assert parent.returncode == 130 and told == ["interrupted"]


def _within(seconds: float, done) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end and not done():
        time.sleep(0.1)
    return done()


def _alive(process: int) -> bool:
    """Whether a process runs; one that has ended and waits to be counted does not."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
