"""Reports a full disk or quota in one line that names the place, whatever code was writing."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

from opsd.types import RunFailed

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_IN_RUST = re.compile(r"\(os error (\d+)\)")
_IN_TORCH = ("PytorchStreamWriter failed", "inline_container.cc", "iostream error")
"""Torch's errors do not say why an archive could not be written."""


@contextlib.contextmanager
def writing(place: Path) -> Iterator[None]:
    """A context for code that writes to a file or folder. Raises RunFailed, which names the place,
    if the disk or the quota is full."""
    try:
        yield
    except Exception as error:
        why = _full(error)
        if why is None:
            raise
        raise RunFailed(
            f"{place} cannot be written ({why}): free some space, then run the same command again"
            " (train: with --resume) to continue"
        ) from error


def system_number(error: BaseException) -> int | None:
    """The errno of an error; safetensors, written in Rust, has it in its message."""
    if found := _IN_RUST.search(str(error)):
        return int(found[1])
    return error.errno if isinstance(error, OSError) else None


def _full(error: BaseException) -> str | None:
    """The reason if an error means that there is no space, else None."""
    number = system_number(error)
    if number in _FULL:
        return os.strerror(number)
    in_torch = isinstance(error, RuntimeError) and any(x in str(error) for x in _IN_TORCH)
    return os.strerror(errno.ENOSPC) if in_torch else None
