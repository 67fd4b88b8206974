"""The actor: it runs one command at a time, in processes that do not outlive it."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue

from opsd.launch import guard

News = tuple[list[str], int | None]
"""The lines that a command has written since the last call, and its exit code if it has ended."""
WAIT = 5.0
"""Seconds to wait for output before returning without any."""


class Host:
    """Runs a command on the machine of its actor. Several calls can be served at once."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None
        self.lines: SimpleQueue[str | None] = SimpleQueue()

    def place(self) -> tuple[str, int]:
        """The address of this machine in the cluster, and a free port on it."""
        import ray

        with socket.socket() as probe:
            probe.bind(("", 0))
            return ray.util.get_node_ip_address(), probe.getsockname()[1]

    def start(self, command: Sequence[str], environment: Mapping[str, str], folder: str) -> News:
        """Start a command in a folder, with variables added to the actor's own, and wait for its
        first output."""
        self.process = process = subprocess.Popen(
            [sys.executable, "-P", guard.__file__, *command],
            env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
            cwd=folder if Path(folder).is_dir() else None,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self.lines = lines = SimpleQueue()

        def read() -> None:
            assert process.stdout is not None
            with process.stdout as told:
                for line in told:
                    lines.put(line.rstrip("\n"))
            lines.put(None)

        threading.Thread(target=read, daemon=True).start()
        return self.news()

    def news(self) -> News:
        """Wait for the command's output or its end, at most `WAIT` seconds."""
        assert self.process is not None
        told: list[str] = []
        with contextlib.suppress(Empty):
            line = self.lines.get(timeout=WAIT)
            while line is not None:
                told.append(line)
                line = self.lines.get_nowait()
            self.end()
            return told, self.process.returncode
        return told, None

    def tell(self, number: int) -> None:
        """Send the command a signal."""
        if self.process is not None and self.process.stdin is not None:
            with contextlib.suppress(OSError, ValueError):  # it has ended
                self.process.stdin.write(f"{number}\n")
                self.process.stdin.flush()

    def end(self) -> None:
        """Kill the command and all its child processes."""
        if self.process is not None and self.process.stdin is not None:
            with contextlib.suppress(OSError):
                self.process.stdin.close()
            self.process.wait()
