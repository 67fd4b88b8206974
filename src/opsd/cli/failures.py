"""What went wrong outside of the user's input, as one line and an exit code."""

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
"""Errors of the system that another argument mends."""
_MENDED = {
    errno.ENOSPC: "make room there, or choose a place on another disk",
    errno.EDQUOT: "make room there, or choose a place on another disk",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f), or choose another file system",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
    errno.ENFILE: "close other programs, or raise the system's limit on open files",
    errno.ENOMEM: "free memory, or ask for less (shorter completions, smaller batches)",
}


def told(error: BaseException) -> tuple[str, int] | None:
    """What a user reads of an error, on one line, and the exit code: 2 where another argument
    mends it, 1 where something else must. None for an error that is ours to mend."""
    if isinstance(error, UserError):
        return str(error), 2
    if isinstance(error, RunFailed):
        return str(error), 1
    if isinstance(error, RecursionError):
        return "the input is nested too deeply: write it flatter", 2
    text = " ".join(str(error).split())
    if _lacks_memory(error, text):
        mend = "lower train.per_device_train_batch_size or the lengths, or take a larger machine"
        return f"out of memory ({text[:300] or 'MemoryError'}): {mend}", 1
    number = system_number(error)
    known = number is not None or isinstance(error, OSError)
    return _of_system(error, number, text) if known else None


def shown(text: str) -> str:
    """A message as a terminal may read it: on one line, of a length that can be read, without
    credentials, and without characters that would do something."""
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
