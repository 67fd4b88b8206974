"""The parent's side of running untrusted Python code against tests, in a separate process."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PROGRAM = Path(__file__).with_name("program.py")
MAX_REPLY_BYTES = 1 << 20


@dataclass(frozen=True)
class Limits:
    """Limits of one solution and all its tests together: seconds of CPU and of the clock, and bytes
    of address space."""

    cpu_s: float = 5.0
    wall_s: float = 10.0
    memory_bytes: int = 1 << 30


def run_tests(source: str, tests: Sequence[str], limits: Limits = Limits()) -> list[str | None]:
    """Runs `source`, and then each test, in one namespace. The first result says why `source` is
    not Python, or is None; then comes a result per test: what goes wrong, or None if it passes.
    Results that are missing after a limit, or after the code ended its process, say so.

    Each call has its own process, which shares nothing with the next one. It is killed with
    everything that it has started when its time is up. It runs in an empty folder, which is then
    removed, without the environment variables of this process.
    """
    token = secrets.token_hex(16)
    request = {"source": source, "tests": list(tests), "token": token}
    request |= {"cpu_s": limits.cpu_s, "memory_bytes": limits.memory_bytes}
    with tempfile.TemporaryDirectory(prefix="opsd-code-") as folder:
        said, ended = _conversation(json.dumps(request).encode(), folder, limits.wall_s)
    found: list[str | None] = []
    for line in said.splitlines():
        with contextlib.suppress(ValueError, TypeError):
            told, why = json.loads(line)
            if told == token:
                found.append(why)
    most = 1 + len(tests)
    return found[:most] + [ended] * (most - len(found))


def _conversation(request: bytes, folder: str, wall_s: float) -> tuple[str, str]:
    """What the process writes, and why it stopped."""
    deadline = time.monotonic() + wall_s
    environment = {
        **{"PATH": os.defpath, "HOME": folder, "TMPDIR": folder, "LANG": "C.UTF-8"},
        **{"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    }
    process = subprocess.Popen(
        [sys.executable, "-I", "-B", "-W", "ignore", str(PROGRAM)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=folder,
        env=environment,
        start_new_session=True,
    )
    assert process.stdin is not None and process.stdout is not None
    written, block, ended = bytearray(), b"-", "the code ended its process"
    try:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(request)
            process.stdin.close()
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while True:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    ended = f"no end within {wall_s:g} s"
                    break
                block = os.read(process.stdout.fileno(), 1 << 16)
                written += block
                if not block or len(written) > MAX_REPLY_BYTES:
                    break
        if not block:  # it has ended, by itself or at a kernel limit
            with contextlib.suppress(subprocess.TimeoutExpired):
                if process.wait(1.0) in _KILLED:
                    ended = "no end within the CPU time"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.stdout.close()
        process.wait()
    return written.decode("utf-8", "replace"), ended


_KILLED = {
    *(-signal.SIGXCPU, -signal.SIGKILL),
    *(128 + signal.SIGXCPU, 128 + signal.SIGKILL),
}
"""Exit statuses of a process at its CPU limit, its own or as passed on by its parent."""
