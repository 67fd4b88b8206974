"""How a run that is told to stop (SIGTERM, Ctrl-C) ends: with a checkpoint of its last step."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_TOLD = b"told to stop: a checkpoint is saved first; another signal, later, ends the run at once\n"
AGAIN = 3.0
"""Seconds."""


class Stopped(BaseException):
    """Unwinds a step that is not to be finished. No error: nothing but the trainer catches it."""


@dataclass
class StopSignal:
    """The signal that has come, if any. `at_once` says that a step may be left in the middle; where
    it may not (several processes must end together), the run stops after it."""

    number: int | None = None
    at_once: bool = False

    def leave_at(self, once: bool) -> None:
        """Says whether a step may be left in the middle."""
        self.at_once = once

    def take(self, number: int) -> None:
        """A signal that has come to any process of the run: all leave together from here on."""
        self.number, self.at_once = number, True

    def heed(self) -> None:
        """Raises Stopped where a signal has come. To be called wherever a step can be left: with
        the student's own weights in place, or where leaving puts them back."""
        if self.number is not None and self.at_once:
            raise Stopped

    @property
    def ending(self) -> BaseException:
        """What the signal means to a process: exit code 130 or 143."""
        return KeyboardInterrupt() if self.number == signal.SIGINT else SystemExit(143)

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Takes signals, while training. The same one within `AGAIN` seconds is the first one, sent
        on by a launcher as well; any other ends the process as it always did. Outside the main
        thread Python lets nobody listen."""
        before: dict[int, Any] = {}
        came = 0.0

        def receive(number: int, frame: Any) -> None:
            nonlocal came
            if self.number is None:
                self.number, came = number, time.monotonic()
                with contextlib.suppress(OSError):  # nobody reads it any more
                    os.write(2, _TOLD)  # print may be what the signal has come into
            elif number != self.number or time.monotonic() - came > AGAIN:
                signal.signal(number, before[number])
                os.kill(os.getpid(), number)

        main = threading.current_thread() is threading.main_thread()
        for number in (signal.SIGTERM, signal.SIGINT) if main else ():
            before[number] = signal.signal(number, receive) or signal.SIG_DFL
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            self.number, self.at_once = None, False
