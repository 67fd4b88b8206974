"""Files of a run: written whole or not at all, read whatever a kill has left of them."""

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
    """Holds a folder, which is made where there is none; a kill lets go of it.

    Raises UserError where it is held already; `what` says by what that would be.
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
            log(f"{folder} cannot be locked: see to it that no other {what} writes there")
        yield
    finally:
        os.close(handle)


def to_json(value: Any, **options: Any) -> str:
    """JSON of plain values, in which a number that is none (NaN, infinite) is null."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, **options)
    except ValueError:
        return json.dumps(_finite(value), ensure_ascii=False, allow_nan=False, **options)


def finite(value: Any) -> bool:
    """False of NaN and of infinite numbers, true of anything else."""
    return not isinstance(value, float) or math.isfinite(value)


def _finite(value: Any) -> Any:
    if not finite(value):
        return None
    if isinstance(value, Mapping):
        return {name: _finite(x) for name, x in value.items()}
    return [_finite(x) for x in value] if isinstance(value, list | tuple) else value


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a JSONL file; a last line without its newline is still being written: skipped."""
    # As bytes: a kill can fall between the two halves of one character.
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                yield json.loads(line)
            except ValueError as error:
                raise UserError(f"{path}, line {number}: not JSON ({error})") from error


def distinct_names(folders: Sequence[Path], deepest: int) -> list[str]:
    """Folders by their names, or by as many of the folders above, up to `deepest` in all, as tell
    them apart."""
    names: list[str] = []
    for depth in range(1, deepest + 1):
        names = ["/".join(folder.resolve().parts[-depth:]) for folder in folders]
        if len(set(names)) == len(names):
            break
    return names


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes a file that is either complete or not there. What is no file, as `/dev/stdout`, is
    written to, and stays what it is. RunFailed where the disk is full."""
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
    """A draft to write a folder's files into, which then take the place of those of their names: no
    file that a kill has left half-written ever stands there."""
    draft = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(draft, ignore_errors=True)
    yield draft
    if folder.is_dir():
        shutil.copytree(draft, folder, dirs_exist_ok=True, copy_function=os.replace)
        shutil.rmtree(draft)
    else:
        draft.rename(folder)
