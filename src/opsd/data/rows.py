"""Rows of files and of Hub datasets, as they are written: text in, mappings out."""

from __future__ import annotations

import csv
import itertools
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from opsd.types import UserError

Row = Mapping[str, Any]


def is_file(source: str) -> bool:
    """Whether a source is a file's name, by its ending. UserError if the file does not exist, or if
    the path exists but is not a file of rows."""
    path = Path(source)
    if path.suffix in _READERS:
        if not path.is_file():
            raise UserError(f"data.source: no file '{path}'")
        return True
    if path.exists():
        raise UserError(f"data.source: '{path}' is not one of {', '.join(_READERS)}")
    if path.suffix and "/" not in source:
        raise UserError(
            f"data.source: no file '{path}' (files end in {', '.join(_READERS)}, datasets of the"
            " Hub are written owner/name)"
        )
    return False


def file_rows(path: Path) -> Iterator[tuple[str, Row]]:
    """Yields a file's rows, each with its place (`rows.jsonl, line 7`). They are read lazily (a
    .json file at once). Raises UserError, with the place, for what the reader cannot parse."""
    from pyarrow import ArrowException

    try:
        for place, row in _READERS[path.suffix](path):
            yield f"{path}, {place}", row
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 ({error.reason})") from error
    except (ArrowException, OSError, ValueError) as error:
        raise UserError(f"{path}: {' '.join(str(error).split())}") from error


def hub_rows(
    name: str, config: str | None, split: str, revision: str | None, *, streaming: bool = False
) -> Any:
    """A dataset of the Hub, or of the local cache if the Hub cannot be reached: whole, or as a
    `datasets.IterableDataset` that is downloaded while it is read."""
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    try:
        return load_dataset(name, config, split=split, revision=revision, streaming=streaming)
    except (DatasetsError, ConnectionError, OSError, ValueError, RuntimeError) as error:
        raise UserError(
            f"data.source: '{name}' is neither a file nor a dataset that can be loaded"
            f" ({str(error).splitlines()[0]})"
        ) from error


def refuse_halves(row: Row, where: str) -> None:
    """Raises UserError if a text contains half a surrogate pair: JSON can write it, but no UTF-8
    file can contain it and no tokenizer can read it."""
    for column, value in row.items():
        try:
            for text in _texts((column, value)):
                text.encode()
        except UnicodeEncodeError as error:
            half = f"\\u{ord(error.object[error.start]):x}"
            raise UserError(
                f"{where}: the column {column!a} contains half a surrogate pair ({half}):"
                " write both halves, or remove it"
            ) from error


def refuse_pictures(row: Row, where: str) -> None:
    """Raises UserError for a row with pictures or sounds, in a column with such a name or in a turn
    of a conversation: prompts would not show them, and the model would learn to guess."""
    for column, value in row.items():
        turns = value if isinstance(value, list | tuple) else ()
        parts = [p for turn in turns if isinstance(turn, Mapping) for p in _parts(turn)]
        if (str(column).lower() in _PICTURES and value not in (None, "", [])) or any(
            isinstance(part, Mapping) and part.get("type", "text") != "text" for part in parts
        ):
            raise UserError(
                f"{where}: the column '{column}' contains a picture or a sound, and only text is"
                " trained on: remove such rows, or the column, from the data"
            )


def _parts(turn: Mapping[str, Any]) -> Sequence[Any]:
    content = turn.get("content")
    return content if isinstance(content, list | tuple) else ()


_PICTURES = frozenset(f"{name}{s}" for name in ("image", "video", "audio") for s in ("", "s"))


def _texts(value: Any) -> Iterator[str]:
    """Yields all texts in a value, however deeply nested."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, Mapping):
            waiting += [*value.keys(), *value.values()]
        elif isinstance(value, list | tuple):
            waiting += value


_BYTE_ORDER_MARK = "\ufeff"


def _jsonl(path: Path) -> Iterator[tuple[str, Row]]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            text = line.removeprefix(_BYTE_ORDER_MARK) if number == 1 else line
            if not text.strip():
                continue
            place = f"line {number}"
            try:
                row = _decoded(text, f"{path}, {place}")
            except json.JSONDecodeError as error:
                raise UserError(f"{path}, {place}: not JSON ({error.msg})") from error
            if not isinstance(row, dict):
                raise UserError(f"{path}, {place}: not a JSON object")
            yield place, row


def _json(path: Path) -> Iterator[tuple[str, Row]]:
    """Reads a list of objects; or JSON lines under the wrong suffix, as in several releases."""
    text = path.read_text("utf-8-sig")
    try:
        rows = _decoded(text, str(path))
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and text.lstrip().startswith("{"):
            return _jsonl(path)
        raise UserError(f"{path}, line {error.lineno}: not JSON ({error.msg})") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path}: a JSON file of problems must be a list of objects")
    return _numbered(rows)


def _decoded(text: str, where: str) -> Any:
    """JSON as values. UserError for JSON beyond the limits of Python's reader; JSONDecodeError for
    text that is not JSON."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise UserError(f"{where}: lists or objects nested too deeply to be read") from error
    except json.JSONDecodeError:
        raise
    except ValueError as error:  # Python's limit on the digits of a whole number
        raise UserError(
            f"{where}: a whole number of more than {sys.get_int_max_str_digits():,} digits: put it"
            " in quotes"
        ) from error


def _numbered(rows: Iterable[Row]) -> Iterator[tuple[str, Row]]:
    return ((f"row {number}", row) for number, row in enumerate(rows, 1))


def _csv(path: Path) -> Iterator[tuple[str, Row]]:
    csv.field_size_limit(2**31 - 1)  # a long solution is not a broken file
    delimiter = "\t" if path.suffix == ".tsv" else ","
    with path.open(encoding="utf-8-sig", newline="") as file:
        first = file.readline().rstrip("\r\n").split(delimiter)
        file.seek(0)
        lines = _without_nul(file, path)
        if delimiter == "\t" and len(first) == 2 and _is_number(first[1]):
            # MGSM's form: a text and a number, without header or quotes.
            reader: Any = csv.DictReader(
                lines, ("question", "answer"), delimiter=delimiter, quoting=csv.QUOTE_NONE
            )
        else:
            reader = csv.DictReader(lines, delimiter=delimiter, strict=True)
        try:
            for place, row in _numbered(reader):
                if None in row:  # an unquoted comma would cut the text at it
                    raise UserError(f"{path}, {place}: more cells than the header; quote its texts")
                yield place, row
        except csv.Error as error:
            raise UserError(f"{path}, line {reader.reader.line_num}: {error}") from error


def _without_nul(lines: Iterable[str], path: Path) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        if "\0" in line:
            raise UserError(f"{path}, line {number}: a NUL byte, which no text has: not a CSV file")
        yield line


def _is_number(text: str) -> bool:
    try:
        float(text.replace(",", ""))
    except ValueError:
        return False
    return True


def _parquet(path: Path) -> Iterator[tuple[str, Row]]:
    from pyarrow import parquet

    batches = parquet.ParquetFile(path).iter_batches()
    return _numbered(itertools.chain.from_iterable(batch.to_pylist() for batch in batches))


_READERS: dict[str, Callable[[Path], Iterable[tuple[str, Row]]]] = {
    ".jsonl": _jsonl,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _csv,
    ".parquet": _parquet,
}
SUFFIXES = frozenset(_READERS)
"""The suffixes of files that contain rows."""
