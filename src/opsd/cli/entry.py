"""The entry point of the command `opsd`: it handles interruptions before it imports anything."""

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
    except KeyboardInterrupt:  # before or after a command, which would handle it itself
        leave()
    finally:
        signal.signal(signal.SIGINT, leave)  # Python's shutdown has nothing left to save
