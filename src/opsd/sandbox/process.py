"""The parent's side of a worker process, which is started when first needed, reused, and replaced.

One process serves all threads, one request at a time. It is never forked from this one, so it is
safe with CUDA and threads; a forked child of this process starts its own worker.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import selectors
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from opsd.types import RunFailed

START_LIMIT_S = 120.0


class WorkerError(RunFailed):
    """A worker cannot be started at all, which must not be taken for an answer."""


class _Worker:
    """One running worker process and its two pipes; `name` is for messages."""

    def __init__(self, name: str, script: Path, error: type[WorkerError]) -> None:
        self.name, self.error = name, error
        # `-P` keeps the script's own folder off the worker's module path. A fixed hash seed makes
        # orderings, and so answers, the same in every run.
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry),
            "PYTHONHASHSEED": "0",
        }
        self.command = [sys.executable, "-P", "-W", "ignore", str(script)]
        try:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                env=environment,
                start_new_session=True,  # Ctrl-C is for the parent, which then closes the pipe
            )
        except OSError as failure:
            raise error(f"cannot start the {name} {self.command}: {failure}") from failure
        assert self.process.stdin is not None and self.process.stdout is not None
        self.requests, self.replies = self.process.stdin, self.process.stdout
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.replies, selectors.EVENT_READ)
        self.ready = False

    def read(self, limit_s: float) -> dict[str, Any]:
        """The next reply; `TimeoutError` after the limit, `EOFError` if the worker has ended."""
        deadline = time.monotonic() + limit_s
        line = bytearray()
        while not line.endswith(b"\n"):  # the worker writes one line per request
            if not self.selector.select(max(0.0, deadline - time.monotonic())):
                raise TimeoutError
            chunk = os.read(self.replies.fileno(), 1 << 20)
            if not chunk:
                raise EOFError
            line += chunk
        return json.loads(line)

    def await_ready(self) -> None:
        """Wait until the worker has loaded what it needs; `WorkerError` if it cannot."""
        if self.ready:
            return
        by_hand = f"run it by hand to see why: {shlex.join(self.command)}"
        try:
            first = self.read(START_LIMIT_S)
        except TimeoutError:
            raise self.error(
                f"the {self.name} did not start within {START_LIMIT_S:g} s; {by_hand}"
            ) from None
        except EOFError:
            status = self.process.wait()
            raise self.error(
                f"the {self.name} ended with status {status} at its start; {by_hand}"
            ) from None
        if "error" in first:
            raise self.error(f"the {self.name} could not start:\n{first['error']}")
        self.ready = True

    def ask(self, request: memoryview, limit_s: float) -> dict[str, Any]:
        """The reply; `EOFError` if the worker ends first, `TimeoutError` if it is late."""
        try:
            while request:
                request = request[self.requests.write(request) :]
        except BrokenPipeError:
            raise EOFError from None
        return self.read(limit_s)

    def close(self) -> None:
        """End the process with its child, and release its pipes."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.release()

    def release(self) -> None:
        """Close this side of the pipes only."""
        self.selector.close()
        self.requests.close()
        self.replies.close()


class Limited:
    """Owns the worker that runs a script: at most one at a time, behind a lock."""

    def __init__(self, name: str, script: Path, error: type[WorkerError] = WorkerError) -> None:
        self._about = name, script, error
        self._lock = threading.Lock()
        self._worker: _Worker | None = None
        atexit.register(self.close)
        os.register_at_fork(after_in_child=self._leave_to_parent)

    def ask(
        self,
        request: Mapping[str, Any],
        limit_s: float,
        default: Callable[[Any], Any] | None = None,
    ) -> dict[str, Any]:
        """The worker's reply; `{"limit": ...}` if the request exceeds the worker's limits, does not
        end within `limit_s` seconds of the clock, or kills the worker twice in another way.
        `default` is passed to `json.dumps`, for values of the request that JSON does not know.

        A worker that is killed by accident (by an operator, or for lack of memory) is replaced, and
        the request is repeated.
        """
        sent = (json.dumps(request, default=default) + "\n").encode()
        with self._lock:
            for _ in range(2):
                worker = self._ready_worker()
                try:
                    return worker.ask(memoryview(sent), limit_s)
                except EOFError:
                    self._discard()
                except TimeoutError:
                    self._discard()
                    return {"limit": "time"}
                except BaseException:  # Ctrl-C: the reply to come would answer the next request
                    self._discard()
                    raise
        return {"limit": "memory"}

    def close(self) -> None:
        """End the worker, if there is one; the next request starts a new one."""
        with self._lock:
            self._discard()

    def _discard(self) -> None:
        if self._worker is not None:
            self._worker.close()
            self._worker = None

    def _ready_worker(self) -> _Worker:
        self._worker = self._worker or _Worker(*self._about)
        try:
            self._worker.await_ready()
        except BaseException:  # Ctrl-C, too: its output so far is lost
            self._discard()
            raise
        return self._worker

    def _leave_to_parent(self) -> None:
        """In a forked child: the worker, and perhaps the acquired lock, belong to the parent."""
        self._lock = threading.Lock()
        if self._worker is not None:
            self._worker.release()
            self._worker.process.returncode = 0  # not our child: nothing to wait for or warn about
            self._worker = None
