"""Turns errors into one line and an exit code."""

from __future__ import annotations

import errno
import sys

from opsd.credentials import cleaned
from opsd.runs.disk import system_number
from opsd.types import RunFailed, UserError

_LONGEST = 2000
_ELSEWHERE = frozenset(
    {
        *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.EEXIST, errno.EISDIR),
        *(errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTEMPTY),
    }
)
"""System errors that another argument can fix."""
_MENDED = {
    errno.ENOSPC: "free space there, or choose a place on another disk",
    errno.EDQUOT: "free space there, or choose a place on another disk",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f), or choose another file system",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
    errno.ENFILE: "close other programs, or raise the system's limit on open files",
    errno.ENOMEM: "free memory, or use less (shorter completions, smaller batches)",
}


def told(error: BaseException) -> tuple[str, int] | None:
    """The one line that a user reads about an error, and the exit code: 2 if another argument can
    fix it, else 1. None for an error that is a bug of opsd."""
    if isinstance(error, UserError):
        return str(error), 2
    if isinstance(error, RunFailed):
        return str(error), 1
    if isinstance(error, RecursionError):
        return "the input is nested too deeply: use fewer levels", 2
    text = " ".join(str(error).split())
    if _lacks_memory(error, text):
        mend = "lower train.per_device_train_batch_size or the lengths, or use a larger machine"
        return f"out of memory ({text[:300] or 'MemoryError'}): {mend}", 1
    number = system_number(error)
    known = number is not None or isinstance(error, OSError)
    return _of_system(error, number, text) if known else None


def shown(text: str) -> str:
    """A message that is safe for a terminal: on one line, of limited length, without credentials,
    and without control characters."""
    line = cleaned(" ".join(text.split()))
    line = line if len(line) <= _LONGEST else f"{line[: _LONGEST // 2]} ... {line[-200:]}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


def _of_system(error: BaseException, number: int | None, text: str) -> tuple[str, int]:
    reason = getattr(error, "strerror", None) or text
    place = getattr(error, "filename", None)
    about = f"{place}: {reason}" if place else reason
    if number in _ELSEWHERE:
        return f"{about}; choose another place", 2
    return f"{about}; {_MENDED[number]}" if number in _MENDED else about, 1


def _lacks_memory(error: BaseException, text: str) -> bool:
    torch = sys.modules.get("torch")
    kinds = (MemoryError, *([torch.OutOfMemoryError] if torch else []))
    return isinstance(error, kinds) or "can't allocate memory" in text
