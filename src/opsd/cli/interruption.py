"""The message of an interruption, and a handler that ends a process with nothing to save yet."""

from __future__ import annotations

import os

TYPE_CHECKING = False  # as in `opsd`: nothing is imported that can wait
if TYPE_CHECKING:
    from typing import Any, NoReturn

INTERRUPTED = (
    "opsd: interrupted; what was written stays; the same command (train: add --resume) continues"
)


def leave(*signalled: Any) -> NoReturn:
    """Ends the process at once: a handler of SIGINT while there is nothing to save yet. Python's
    own handler raises an exception, which may get lost during imports of compiled code."""
    os.write(2, f"{INTERRUPTED}\n".encode())
    os._exit(130)
