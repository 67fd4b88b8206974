"""A command in its actor's hands: what it says, how it is told to stop, and that it never outlives
the process that started it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from opsd.launch.host import Host


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """A busy machine takes seconds to start a command."""
    monkeypatch.setattr("opsd.launch.host.WAIT", 60.0)


def python(text: str) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(text)]


def heard(host: Host, news: tuple[list[str], int | None]) -> tuple[list[str], int]:
    """All that a command says until its end, and its exit code."""
    lines, code = news
    while code is None:
        more, code = host.news()
        lines += more
    return lines, code


def ended(pid: int) -> bool:
    until = time.monotonic() + 60
    with contextlib.suppress(psutil.NoSuchProcess):
        while psutil.Process(pid).status() != "zombie":
            if time.monotonic() > until:
                return False
            time.sleep(0.05)
    return True


def test_what_a_command_says_and_how_it_ends(tmp_path):
    host = Host()
    says = """
        import os, sys
        print(os.environ["RANK"], os.getcwd(), flush=True)
        print("beside", file=sys.stderr)
        sys.exit(7)
    """
    news = host.start(python(says), {"RANK": "3"}, str(tmp_path))
    assert heard(host, news) == ([f"3 {tmp_path}", "beside"], 7)
    again = host.start(python("print('again')"), {}, str(tmp_path))
    assert heard(host, again) == (["again"], 0)


def test_a_command_that_is_not_there_is_an_end():
    host = Host()
    lines, code = heard(host, host.start(["no-such-command"], {}, "."))
    assert code == 127 and lines == ["no-such-command cannot be started: No such file or directory"]


def test_a_signal_reaches_the_command_alone():
    host = Host()
    waits = """
        import signal, subprocess, sys, time
        signal.signal(signal.SIGTERM, lambda *_: (print("saved"), sys.exit(143)))
        print("ready", flush=True)
        time.sleep(60)
    """
    assert host.start(python(waits), {}, ".") == (["ready"], None)
    host.tell(signal.SIGTERM)
    assert heard(host, ([], None)) == (["saved"], 143)
    host.tell(signal.SIGTERM)  # nobody is there any more
    host.end()


SPAWNS = """
    import subprocess, sys, time
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(99)"
    child = subprocess.Popen([sys.executable, "-c", code])
    print(child.pid, flush=True)
"""


def test_what_a_command_leaves_behind_is_killed():
    host = Host()
    lines, code = heard(host, host.start(python(SPAWNS), {}, "."))
    assert code == 0 and ended(int(lines[0]))


def test_an_end_kills_a_command_with_all_that_it_started():
    host = Host()
    lines, code = host.start([*python(SPAWNS)[:2], python(SPAWNS)[2] + "\ntime.sleep(99)"], {}, ".")
    assert code is None
    host.end()
    assert heard(host, ([], None)) == ([], 128 + signal.SIGKILL) and ended(int(lines[0]))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_command_goes_with_its_actor(number):
    holds = f"""
        import sys, time
        from opsd.launch import host as own
        own.WAIT = 60.0
        host = own.Host()
        text = {textwrap.dedent(SPAWNS)!r} + "\\ntime.sleep(99)"
        lines, _ = host.start([sys.executable, "-c", text], {{}}, ".")
        print(*lines, flush=True)
        time.sleep(99)
    """
    root = str(Path(__file__).parents[2] / "src")
    actor = subprocess.Popen(
        python(holds), stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": root}
    )
    assert actor.stdout is not None
    below = psutil.Process(actor.pid)
    child = int(actor.stdout.readline())
    family = [child, *(process.pid for process in below.children(recursive=True))]
    assert len(family) >= 3
    actor.send_signal(number)
    actor.wait()
    actor.stdout.close()
    assert all(ended(pid) for pid in family)
