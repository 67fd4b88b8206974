"""Where the command `opsd` begins: nothing is imported before an interruption is one line."""

from __future__ import annotations

import os
import signal
from typing import Any, NoReturn

INTERRUPTED = (
    "opsd: interrupted; what is written stays, and the same command (train: --resume) goes on"
)


def main() -> None:
    """Runs the command line."""
    signal.signal(signal.SIGINT, leave)
    from opsd.cli import main as run

    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        run()
    finally:
        signal.signal(signal.SIGINT, leave)  # what Python does at its end is no work to be saved


def leave(*signalled: Any) -> NoReturn:
    """Ends the process at once: a handler of SIGINT where there is nothing yet to be saved. An
    exception, as Python's own handler raises it, may be lost among the imports of compiled code."""
    os.write(2, f"{INTERRUPTED}\n".encode())
    os._exit(130)
