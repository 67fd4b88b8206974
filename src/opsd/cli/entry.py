"""Where the command `opsd` begins: nothing is imported before an interruption is one line."""

from __future__ import annotations

import signal

from opsd.cli.interruption import leave


def main() -> None:
    """Runs the command line."""
    signal.signal(signal.SIGINT, leave)
    from opsd.cli.commands import main as run

    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        run()
    except KeyboardInterrupt:  # before or after a command, where nobody else looks for it
        leave()
    finally:
        signal.signal(signal.SIGINT, leave)  # what Python does at its end is no work to be saved
