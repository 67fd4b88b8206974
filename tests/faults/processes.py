"""Commands as processes that are ended on purpose: started anew, or forked from one that has
imported everything, which saves most of a try's seconds."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import psutil

ROOT = Path(__file__).parents[2]
HANGS = 180.0
"""Seconds after which a command counts as hanging: many times what any of them takes."""
MARK = "OPSD_FAULTS"
"""The environment variable by which whatever a try has started is found."""
_CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link"}


@dataclass(frozen=True)
class Kill:
    """A signal, after so many `seconds`, or (of forked processes) right before the so-manieth
    `change` of the files in a folder; to the command's process, with `worker` to the one that is
    about to make the change, with `group` to all that the command has started (as Ctrl-C is)."""

    signal: int
    seconds: float | None = None
    change: int | None = None
    worker: bool = False
    group: bool = False


@dataclass(frozen=True)
class Ended:
    """How a process has ended: its exit code (minus the signal that ended it; None of one that had
    to be ended because it hung or left others behind), what it said, how long it took, and how many
    changes of files the command's own process made."""

    code: int | None
    told: str
    seconds: float
    changes: int = 0

    @property
    def line(self) -> str:
        """What the command line said at its end, if it did."""
        lines = self.told.strip().splitlines()
        return lines[-1] if lines and lines[-1].startswith("opsd: ") else ""


class Run(Protocol):
    """One of the two ways to run a command."""

    def __call__(
        self,
        arguments: Sequence[str],
        place: Path,
        kill: Kill | None = None,
        largest: int | None = None,
    ) -> Ended: ...


def started(
    arguments: Sequence[str], place: Path, kill: Kill | None = None, largest: int | None = None
) -> Ended:
    """`opsd` with these arguments as anybody starts it; its directory is `place`. No file of it may
    grow beyond `largest` bytes."""
    with _log(place).open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.small", *arguments],
            cwd=place,
            env=os.environ | {"PYTHONPATH": _path(), MARK: str(place)},
            stdout=subprocess.DEVNULL,
            stderr=log,
            start_new_session=True,
            preexec_fn=lambda: _limit(largest),
        )
    return _ended(process.pid, process.poll, place, kill)


def forked(
    arguments: Sequence[str], place: Path, kill: Kill | None = None, largest: int | None = None
) -> Ended:
    """As `started`, from this process, in which everything is imported by `prepare`."""
    child = os.fork()
    if child == 0:
        _become(arguments, place, kill, largest)
    return _ended(child, partial(_poll, child), place, kill)


def called(work: Callable[[], Any], place: Path) -> Any:
    """What a function returns in a forked process, as JSON; a text where it hangs or fails."""
    file = place / "returned.json"
    child = os.fork()
    if child == 0:
        os.setsid()
        try:
            made = work()
        except BaseException:
            made = traceback.format_exc()
        file.write_text(json.dumps(made))
        os._exit(0)
    code = _ended(child, partial(_poll, child), place, None).code
    if code is None:
        return "hangs"
    return json.loads(file.read_text()) if file.is_file() else f"ended with exit code {code}"


def prepare() -> None:
    """Imports what commands import when they run; nothing is computed, and no thread started."""
    import torch
    from transformers.utils import logging

    import opsd.evaluate.command
    import opsd.experiments.claims_page
    import opsd.experiments.reproduce
    import opsd.inspect.page
    import opsd.publish.export
    import opsd.recipe.retrace
    import opsd.recipe.train  # noqa: F401

    torch.set_num_threads(1)
    logging.disable_progress_bar()


def _path() -> str:
    return os.pathsep.join([str(ROOT / "src"), str(ROOT)])


def _log(place: Path) -> Path:
    return place / "stderr.txt"


def _changes(place: Path) -> Path:
    return place / "changes.txt"


def _counted(place: Path) -> int:
    file = _changes(place)
    return int(file.read_text()) if file.is_file() else 0


def _limit(largest: int | None) -> None:
    if largest is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, resource.RLIM_INFINITY))


def _poll(child: int) -> int | None:
    """The exit code of a fork that has ended."""
    ended, status = os.waitpid(child, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended else None


def _ended(child: int, poll: Callable[[], int | None], place: Path, kill: Kill | None) -> Ended:
    start = time.perf_counter()
    sent, code = kill is None or kill.seconds is None, None
    while (code := poll()) is None and time.perf_counter() - start < HANGS:
        if kill is not None and not sent and time.perf_counter() - start >= (kill.seconds or 0.0):
            with contextlib.suppress(ProcessLookupError):
                (os.killpg if kill.group else os.kill)(child, kill.signal)
            sent = True
        time.sleep(0.005)
    seconds = time.perf_counter() - start
    hung = code is None or not _gone(child, place)
    if hung:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        while code is None and poll() is None:
            time.sleep(0.01)
    log = _log(place)
    told = log.read_text("utf-8", errors="replace") if log.is_file() else ""
    return Ended(None if hung else code, told, seconds, _counted(place))


def _gone(session: int, place: Path) -> bool:
    """Whether nobody of a session is left, a little while after the first one's end."""
    until = time.perf_counter() + 120.0
    while any(_of(process, session, place) for process in psutil.process_iter()):
        if time.perf_counter() > until:
            return False
        time.sleep(0.02)
    return True


def _of(process: psutil.Process, session: int, place: Path) -> bool:
    """Whether a process is of a session, or was started from one with a session of its own."""
    try:
        if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
            return False
        return os.getsid(process.pid) == session or process.environ().get(MARK) == str(place)
    except (OSError, psutil.Error):
        return False


def _become(arguments: Sequence[str], place: Path, kill: Kill | None, largest: int | None) -> None:
    """The child: `opsd` from its first line to its exit code. Does not return."""
    code = 1
    try:
        os.setsid()
        os.chdir(place)
        os.environ[MARK] = str(place)
        log = os.open(_log(place), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 2)
        os.dup2(os.open(os.devnull, os.O_RDWR), 1)
        os.dup2(1, 0)
        # New objects: the parent's may have been forked with their locks held.
        sys.stdout, sys.stderr = (os.fdopen(n, "w", encoding="utf-8") for n in (1, 2))
        _limit(largest)
        # Workers, too, are forked: they would import for seconds what is there already.
        forking = multiprocessing.get_context("fork")
        multiprocessing.get_context = lambda method=None: forking
        watch = _Watch(kill, place)
        sys.addaudithook(watch)
        code = _run(arguments)
        _changes(place).write_text(str(watch.seen))
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stderr.flush()
        os._exit(code)


def _run(arguments: Sequence[str]) -> int:
    from tests.faults import small

    sys.argv = ["opsd", *arguments]
    try:
        small.main()
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
            return 1
        return end.code or 0
    return 0


class _Watch:
    """Counts what changes files below a place, and sends the signal before one of these."""

    def __init__(self, kill: Kill | None, place: Path) -> None:
        self.kill, self.place, self.seen = kill, str(place), 0
        self.own = os.getpid()
        self.lock = threading.Lock()

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._changes(event, arguments):
            return
        with self.lock:
            self.seen += 1
            due = self.kill is not None and self.seen == self.kill.change
        if due and self.kill.group:
            os.killpg(0, self.kill.signal)
        elif due:
            os.kill(os.getpid() if self.kill.worker else self.own, self.kill.signal)

    def _changes(self, event: str, arguments: tuple[Any, ...]) -> bool:
        if event == "open":
            path, _, flags = arguments
            writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            return bool(writes) and str(path).startswith(self.place)
        if event not in _CHANGES:
            return False
        # Below a directory that is being removed, names are relative to it.
        return str(arguments[0]).startswith(self.place) or not str(arguments[0]).startswith("/")
