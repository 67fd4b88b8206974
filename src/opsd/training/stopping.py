"""Ends a run on a signal (SIGTERM, Ctrl-C), with a checkpoint of its last step."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_TOLD = b"stop signal received: saving a checkpoint; a second signal, later, ends the run at once\n"
AGAIN = 3.0
"""Seconds within which a repeated signal counts as the same one."""


class Stopped(BaseException):
    """Unwinds a step that will not be finished. Not an error: only the trainer catches it."""


@dataclass
class StopSignal:
    """The signal that was received, if any. `at_once` says that the current step may be abandoned;
    otherwise (if several processes must end together) the run stops after it."""

    number: int | None = None
    at_once: bool = False

    def leave_at(self, once: bool) -> None:
        """Set whether a step may be abandoned midway."""
        self.at_once = once

    def take(self, number: int) -> None:
        """Record a signal that any process of the run has received: from now on, all may leave
        together."""
        self.number, self.at_once = number, True

    def heed(self) -> None:
        """Raises Stopped if a signal was received. Call it wherever a step can be abandoned: when
        the student's own weights are in place, or when leaving restores them."""
        if self.number is not None and self.at_once:
            raise Stopped

    @property
    def ending(self) -> BaseException:
        """The exception that ends the process: exit code 130 or 143."""
        return KeyboardInterrupt() if self.number == signal.SIGINT else SystemExit(143)

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Receive signals while training. The same signal within `AGAIN` seconds counts as the
        first one, forwarded by a launcher; any other signal ends the process as usual. Does nothing
        outside the main thread, where Python does not allow signal handlers."""
        before: dict[int, Any] = {}
        came = 0.0

        def receive(number: int, frame: Any) -> None:
            nonlocal came
            if self.number is None:
                self.number, came = number, time.monotonic()
                with contextlib.suppress(OSError):  # standard error is closed
                    os.write(2, _TOLD)  # the signal may have interrupted a print
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
