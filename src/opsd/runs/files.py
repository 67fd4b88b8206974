"""Files of a run: written completely or not at all, and readable even after a kill."""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from opsd.console import log
from opsd.runs.disk import writing
from opsd.types import UserError


@contextlib.contextmanager
def held(folder: Path, what: str) -> Iterator[None]:
    """Lock a folder, which is created if necessary. A kill releases the lock.

    Raises UserError if it is locked already; `what` names the kind of process in the message.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"another {what} is writing to {folder}: wait for it, or choose another --output"
            ) from error
        except OSError:  # a file system without locks
            log(f"{folder} cannot be locked: make sure that no other {what} writes there")
        yield
    finally:
        os.close(handle)


def to_json(value: Any, **options: Any) -> str:
    """Plain values as JSON, with null for NaN and infinite numbers."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, **options)
    except ValueError:
        return json.dumps(_finite(value), ensure_ascii=False, allow_nan=False, **options)


def finite(value: Any) -> bool:
    """False for NaN and infinite numbers, true for anything else."""
    return not isinstance(value, float) or math.isfinite(value)


def _finite(value: Any) -> Any:
    if not finite(value):
        return None
    if isinstance(value, Mapping):
        return {name: _finite(x) for name, x in value.items()}
    return [_finite(x) for x in value] if isinstance(value, list | tuple) else value


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a JSONL file. A last line without newline is still being written and is
    skipped."""
    # As bytes: a kill can cut a line within a multi-byte character.
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                yield json.loads(line)
            except ValueError as error:
                raise UserError(f"{path}, line {number}: not JSON ({error})") from error


def distinct_names(folders: Sequence[Path], deepest: int) -> list[str]:
    """Names for folders: their own, with as many parent folders as needed to make them distinct, up
    to `deepest` parts."""
    names: list[str] = []
    for depth in range(1, deepest + 1):
        names = ["/".join(folder.resolve().parts[-depth:]) for folder in folders]
        if len(set(names)) == len(names):
            break
    return names


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file atomically: it is either complete or unchanged. A path that is not a regular
    file, such as `/dev/stdout`, is written to directly. RunFailed if the disk is full."""
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    whole = content.encode() if isinstance(content, str) else content
    if path.exists() and not path.is_file():
        path.write_bytes(whole)
        return
    draft = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        with writing(path):
            draft.write_bytes(whole)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


@contextlib.contextmanager
def written_beside(folder: Path) -> Iterator[Path]:
    """A temporary folder to write files into, which then replace those of the same names in the
    target folder, so that a kill never leaves a half-written file there."""
    draft = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(draft, ignore_errors=True)
    yield draft
    if folder.is_dir():
        shutil.copytree(draft, folder, dirs_exist_ok=True, copy_function=os.replace)
        shutil.rmtree(draft)
    else:
        draft.rename(folder)
