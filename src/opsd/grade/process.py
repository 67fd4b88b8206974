"""The parent's side of the comparing process: started when first needed, reused, replaced.

One process serves all threads, one comparison at a time. It is never forked from this one, so it
is safe beside CUDA and threads; a forked child of this process starts its own.
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
from pathlib import Path
from typing import Any

WORKER = Path(__file__).with_name("worker.py")
START_LIMIT_S = 120.0
# The worker ends a comparison after one second of CPU. This one only counts where the machine is so
# busy, or the worker so stuck, that the CPU time does not come.
WALL_LIMIT_S = 4.0


class GraderError(RuntimeError):
    """Answers cannot be compared at all, which must not pass for wrong answers."""


class _Worker:
    """One running worker process and its two pipes."""

    def __init__(self) -> None:
        # `-P` keeps this folder, with its `format.py`, off the worker's module path. A fixed
        # hash seed makes SymPy's orderings, and so its verdicts, the same in every run.
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry),
            "PYTHONHASHSEED": "0",
        }
        self.command = [sys.executable, "-P", "-W", "ignore", str(WORKER)]
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
        except OSError as error:
            raise GraderError(f"cannot start the answer grader {self.command}: {error}") from error
        assert self.process.stdin is not None and self.process.stdout is not None
        self.requests, self.replies = self.process.stdin, self.process.stdout
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.replies, selectors.EVENT_READ)
        self.buffer = b""
        self.ready = False

    def read(self, limit_s: float) -> dict[str, Any]:
        """The next reply; `TimeoutError` after the limit, `EOFError` where the worker has ended."""
        deadline = time.monotonic() + limit_s
        while b"\n" not in self.buffer:
            if not self.selector.select(max(0.0, deadline - time.monotonic())):
                raise TimeoutError
            chunk = os.read(self.replies.fileno(), 65536)
            if not chunk:
                raise EOFError
            self.buffer += chunk
        line, self.buffer = self.buffer.split(b"\n", 1)
        return json.loads(line)

    def await_ready(self) -> None:
        """Wait until it has imported Math-Verify; `GraderError` where it cannot."""
        if self.ready:
            return
        by_hand = f"run it by hand to see why: {shlex.join(self.command)}"
        try:
            first = self.read(START_LIMIT_S)
        except TimeoutError:
            raise GraderError(
                f"the answer grader did not start within {START_LIMIT_S:g} s; {by_hand}"
            ) from None
        except EOFError:
            status = self.process.wait()
            raise GraderError(
                f"the answer grader ended with status {status} at its start; {by_hand}"
            ) from None
        if "error" in first:
            raise GraderError(f"the answer grader could not start:\n{first['error']}")
        self.ready = True

    def ask(self, answer: str, gold: str) -> bool:
        """The verdict; `EOFError` where the worker ends first, `TimeoutError` where it is late."""
        request = json.dumps({"answer": answer, "gold": gold}) + "\n"
        try:
            self.requests.write(request.encode())
        except BrokenPipeError:
            raise EOFError from None
        return self.read(WALL_LIMIT_S)["equal"]

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


class Comparer:
    """Owner of the worker: at most one at a time, behind a lock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._worker: _Worker | None = None
        atexit.register(self.close)
        os.register_at_fork(after_in_child=self._leave_to_parent)

    def compare(self, answer: str, gold: str) -> bool:
        """The worker's verdict; False where the comparison does not end or twice ends the worker.

        A worker that ends by accident (an operator, the system's memory) is replaced and asked
        again, so that a right answer is not called wrong.
        """
        with self._lock:
            for _ in range(2):
                worker = self._ready_worker()
                try:
                    return worker.ask(answer, gold)
                except EOFError:
                    self._discard()
                except TimeoutError:
                    self._discard()
                    return False
                except BaseException:  # Ctrl-C: the reply to come would answer the next question
                    self._discard()
                    raise
        return False

    def close(self) -> None:
        """End the worker, if there is one; the next comparison starts another."""
        with self._lock:
            self._discard()

    def _discard(self) -> None:
        if self._worker is not None:
            self._worker.close()
            self._worker = None

    def _ready_worker(self) -> _Worker:
        self._worker = self._worker or _Worker()
        try:
            self._worker.await_ready()
        except GraderError:
            self._discard()
            raise
        return self._worker

    def _leave_to_parent(self) -> None:
        """In a forked child: the worker, and perhaps a held lock, belong to the parent."""
        self._lock = threading.Lock()
        if self._worker is not None:
            self._worker.release()
            self._worker.process.returncode = 0  # not our child: nothing to wait for or warn about
            self._worker = None
