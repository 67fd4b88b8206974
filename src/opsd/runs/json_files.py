"""JSON files of a run, which a crash, a disk or a hand may have damaged: read whole or refused in a
line that names them."""

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
"""The key of a row's checksum, CRC-32 of all else. Rows without one are as other tools and earlier
versions write them."""


class Damaged(UserError):
    """A file is not as it was written."""


def document(path: Path, hint: str = "") -> dict[str, Any]:
    """The mapping in a JSON file; `hint` says how to mend it. UserError for a file that is not
    there, cannot be read, holds something else, or is not as it was written."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise Damaged(f"{path}: cannot be read ({error.strerror}){hint}") from error
    except ValueError as error:  # no UTF-8 either
        raise Damaged(f"{path}: not JSON ({error}){hint}") from error
    except RecursionError as error:
        raise Damaged(f"{path}: not JSON that anybody wrote{hint}") from error
    return _checked(content, str(path), hint)


def rows(path: Path, hint: str = "") -> Iterator[dict[str, Any]]:
    """The mappings in a JSONL file, line by line; a last line that is still being written is left
    out. UserError names the line that is none, or is not as it was written."""
    try:
        for number, row in enumerate(read_jsonl(path), 1):
            yield _checked(row, f"{path}, line {number}", hint)
    except UserError as error:
        raise error if isinstance(error, Damaged) else Damaged(f"{error}{hint}") from error
    except RecursionError as error:
        raise Damaged(f"{path}: holds a line that nobody wrote{hint}") from error
    if _ends_in_zeros(path):
        raise Damaged(f"{path}: ends in zeros, as a crash of the machine leaves it{hint}")


def sealed(content: Row) -> dict[str, Any]:
    """The content with its checksum, so that no digit changes unseen."""
    own = {key: value for key, value in content.items() if key != CHECK}
    return own | {CHECK: _sum(own)}


def as_type(kind: TypeAdapter[Any], content: Any, where: str, hint: str = "") -> Any:
    """The content, checked to be of a type. UserError names the first key that is not."""
    try:
        return kind.validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise Damaged(f"{where}: {key}: {first['msg']}{hint}") from error


def mapping(value: Any) -> Row:
    """The value, or an empty mapping where it is something else."""
    return value if isinstance(value, Mapping) else {}


def sequence(value: Any) -> list[Any]:
    """The value, or an empty list where it is something else."""
    return value if isinstance(value, list) else []


def finite(value: Any) -> float | None:
    """The value, or None where it is no finite number."""
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
