"""JSON files of a run, which a crash, a disk or a user may have damaged: they are read completely,
or refused in one line that names them."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from opsd.runs.files import read_jsonl
from opsd.types import UserError

Row = Mapping[str, Any]

CHECK = "check"
"""The key of a row's checksum, a CRC-32 of everything else. Other tools and earlier versions write
rows without one."""


class Damaged(UserError):
    """A file is damaged, or was changed after it was written."""


def document(path: Path, hint: str = "") -> dict[str, Any]:
    """The mapping in a JSON file; `hint` says how to fix it. UserError for a file that does not
    exist, cannot be read, contains something else, or was changed after it was written."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise Damaged(f"{path}: cannot be read ({error.strerror}){hint}") from error
    except ValueError as error:  # also if it is not UTF-8
        raise Damaged(f"{path}: not JSON ({error}){hint}") from error
    except RecursionError as error:
        raise Damaged(f"{path}: not JSON (nested too deeply){hint}") from error
    return _checked(content, str(path), hint)


def rows(path: Path, hint: str = "") -> Iterator[dict[str, Any]]:
    """The mappings in a JSONL file, line by line; a last line that is still being written is
    skipped. UserError names a line that is not a mapping, or was changed after it was written."""
    try:
        for number, row in enumerate(read_jsonl(path), 1):
            yield _checked(row, f"{path}, line {number}", hint)
    except UserError as error:
        raise error if isinstance(error, Damaged) else Damaged(f"{error}{hint}") from error
    except RecursionError as error:
        raise Damaged(f"{path}: contains a line that is nested too deeply{hint}") from error
    if _ends_in_zeros(path):
        raise Damaged(f"{path}: ends in zeros, as after a crash of the machine{hint}")


def sealed(content: Row) -> dict[str, Any]:
    """The content with its checksum, so that any change is noticed."""
    own = {key: value for key, value in content.items() if key != CHECK}
    return own | {CHECK: _sum(own)}


def as_type(kind: TypeAdapter[Any], content: Any, where: str, hint: str = "") -> Any:
    """The content, validated against a type. UserError names the first invalid key."""
    try:
        return kind.validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise Damaged(f"{where}: {key}: {first['msg']}{hint}") from error


def mapping(value: Any) -> Row:
    """The value, or an empty mapping if it is not a mapping."""
    return value if isinstance(value, Mapping) else {}


def sequence(value: Any) -> list[Any]:
    """The value, or an empty list if it is not a list."""
    return value if isinstance(value, list) else []


def finite(value: Any) -> float | None:
    """The value, or None if it is not a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def number(row: Row, name: str) -> float | None:
    """A finite number of a row, or None."""
    return finite(row.get(name))


def _checked(content: Any, where: str, hint: str) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise Damaged(f"{where}: not a mapping of keys{hint}")
    if CHECK in content and sealed(content)[CHECK] != content[CHECK]:
        raise Damaged(f"{where}: was changed after it was written{hint}")
    content.pop(CHECK, None)
    return content


def _sum(content: Row) -> int:
    return zlib.crc32(json.dumps(content, sort_keys=True, ensure_ascii=True).encode())


def _ends_in_zeros(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, 2) - 1))
        return file.read(1) == b"\0"
