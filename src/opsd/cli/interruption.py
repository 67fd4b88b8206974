"""What an interruption says, and how it ends a process that has nothing to save yet."""

from __future__ import annotations

import os

TYPE_CHECKING = False  # as in `opsd`: nothing is imported that can wait
if TYPE_CHECKING:
    from typing import Any, NoReturn

INTERRUPTED = (
    "opsd: interrupted; what is written stays, and the same command (train: --resume) goes on"
)


def leave(*signalled: Any) -> NoReturn:
    """Ends the process at once: a handler of SIGINT where there is nothing yet to be saved. An
    exception, as Python's own handler raises it, may be lost among the imports of compiled code."""
    os.write(2, f"{INTERRUPTED}\n".encode())
    os._exit(130)
