"""Loads problems from files, the hub and the built-in world. Rows become `Problem`s; every row that
does not is an error or a counted drop."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from opsd.data.languages import language
from opsd.grade.answer import gold_answer
from opsd.miniature import NAMES
from opsd.types import Problem, UserError

Row = Mapping[str, Any]

_DEFAULT_COLUMNS = {
    "prompt": ("prompt", "problem", "question"),
    "answer": ("answer", "Answer", "answer_number"),
    "solution": ("solution", "privileged_context"),
    "translation": ("translation", "problem_en"),
}
_GSM8K_CALCULATOR = re.compile(r"<<[^<>=]*=[^<>]*>>")
_GSM8K_ANSWER = re.compile(r"\n?####\s*(.+?)\s*$")


class Data(BaseModel):
    """Where problems come from.

    `source` is a file (.jsonl, .json, .csv, .tsv, .parquet), a dataset on the hub, or a built-in
    world. `columns` maps `prompt`, `answer`, `language` and the privileged texts (`solution`,
    `translation`, ...) to the source's columns; usual names are found without it. `dev` sets that
    many problems (or that share) aside for evaluation during training, chosen by their hash.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str
    split: str = "train"
    columns: dict[str, str] = Field(default_factory=dict)
    language: str = "eng"
    limit: Annotated[int, Field(gt=0)] | None = None
    dev: Annotated[float, Field(ge=0)] = 0
    revision: str | None = None


def load(data: Data) -> tuple[list[Problem], list[Problem]]:
    """Training and dev problems. Raises UserError for a source without any."""
    language(data.language)
    if data.source in NAMES:
        return _built_in(data)
    problems = [
        problem(row, data.columns, data.language, f"{data.source}, row {number}")
        for number, row in enumerate(_rows(data), 1)
    ]
    if not problems:
        raise UserError(f"{data.source} holds no rows")
    return _split(problems, data)


def as_problems(rows: Iterable[Problem | Row]) -> list[Problem]:
    """Problems as they are, and rows with the usual column names as problems. A `language` column
    holds ISO 639-3 codes; without one the language is English."""
    problems = []
    for number, row in enumerate(rows, 1):
        if isinstance(row, Problem):
            problems.append(row)
            continue
        columns = {"language": "language"} if "language" in row else {}
        problems.append(problem(row, columns, "eng", f"row {number}"))
    return problems


def problem(row: Row, columns: Mapping[str, str], lang: str, where: str) -> Problem:
    """One row as a problem. `where` names it in errors: file and row number."""
    names = {**_found(row, columns), **columns}
    for name, column in names.items():
        if column not in row:
            have = ", ".join(map(str, row))
            raise UserError(f"{where}: no column '{column}' for '{name}'; columns: {have}")
    if "prompt" not in names:
        have = ", ".join(map(str, row))
        raise UserError(f"{where}: no problem; set data.columns.prompt to one of {have}")
    # An empty cell is a text that is not there: a template that asks for it says so.
    fields = {name: row[c] for name, c in names.items() if row[c] is not None and row[c] != ""}
    prompt = fields.pop("prompt", None)
    if not prompt or (isinstance(prompt, str) and not prompt.strip()):
        raise UserError(f"{where}: the column '{names['prompt']}' is empty")
    answer = fields.pop("answer", None)
    worked = str(answer) if answer is not None else ""
    if "solution" not in fields and _GSM8K_ANSWER.search(worked):
        fields["solution"] = worked
    privileged = {n: _boxed(str(text)) for n, text in fields.items() if n != "language"}
    return Problem(
        prompt if isinstance(prompt, str) else _conversation(prompt, where),
        answer=gold_answer(worked) if answer is not None else None,
        language=str(fields.get("language", lang)),
        privileged=privileged,
    )


def _found(row: Row, columns: Mapping[str, str]) -> dict[str, str]:
    """Columns under their usual names, for whatever the mapping leaves open."""
    found = {}
    for name, usual in _DEFAULT_COLUMNS.items():
        if name not in columns:
            found.update((name, column) for column in reversed(usual) if column in row)
    return found


def _conversation(prompt: Any, where: str) -> tuple[dict[str, str], ...]:
    """A prompt as messages that end with the user's turn."""
    turns = list(prompt) if isinstance(prompt, list | tuple) else []
    if not turns or not all(
        isinstance(turn, Mapping)
        and isinstance(turn.get("role"), str)
        and isinstance(turn.get("content"), str)
        for turn in turns
    ):
        raise UserError(
            f"{where}: a prompt is text, or a list of messages with 'role' and 'content'"
        )
    if turns[-1]["role"] != "user":
        raise UserError(
            f"{where}: a conversation ends with the user's turn, not the {turns[-1]['role']}'s"
        )
    return tuple(dict(turn) for turn in turns)


def _boxed(text: str) -> str:
    r"""A GSM8K solution in the form that is asked for: no calculator marks, `\boxed{n}` last."""
    if not _GSM8K_ANSWER.search(text):
        return text
    return _GSM8K_ANSWER.sub(r"\n\\boxed{\1}", _GSM8K_CALCULATOR.sub("", text))


def _built_in(data: Data) -> tuple[list[Problem], list[Problem]]:
    from opsd.miniature.world import problems

    train = problems(data.source, data.split, data.language, data.limit)
    return train, problems(data.source, "dev", data.language, _dev_size(data, len(train)))


def _dev_size(data: Data, problems: int) -> int:
    return int(data.dev) if data.dev >= 1 else round(data.dev * problems)


def _split(problems: list[Problem], data: Data) -> tuple[list[Problem], list[Problem]]:
    """Training problems in file order, at most `limit`; the dev problems by hash. No prompt is in
    both: some datasets repeat a problem with another solution."""
    size = _dev_size(data, len(problems))
    dev = sorted({str(p.prompt): p for p in problems}.values(), key=lambda p: p.id)[:size]
    held_out = {str(p.prompt) for p in dev}
    train = [p for p in problems if str(p.prompt) not in held_out]
    if not train:
        raise UserError(f"data.dev takes {size} of {len(problems)} problems: none is left to train")
    return train[: data.limit], dev


def _rows(data: Data) -> Iterator[Row]:
    path = Path(data.source)
    readers = {".jsonl": _jsonl, ".json": _json, ".csv": _csv, ".tsv": _csv, ".parquet": _parquet}
    if path.suffix in readers:
        if not path.is_file():
            raise UserError(f"data.source: no file '{path}'")
        return _checked(path, readers[path.suffix])
    if path.exists():
        raise UserError(f"data.source: '{path}' is not one of {', '.join(readers)}")
    return _hub(data)


def _checked(path: Path, read: Callable[[Path], Iterable[Row]]) -> Iterator[Row]:
    """A file's rows; what its format's reader cannot read is the user's mistake."""
    from pyarrow import ArrowException

    try:
        yield from read(path)
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 ({error.reason})") from error
    except (csv.Error, ArrowException) as error:
        raise UserError(f"{path}: {error}") from error


def _jsonl(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(f"{path}, line {number}: not JSON ({error.msg})") from error
            if not isinstance(row, dict):
                raise UserError(f"{path}, line {number}: not a JSON object")
            yield row


def _json(path: Path) -> Iterator[Row]:
    try:
        rows = json.loads(path.read_text("utf-8-sig"))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {error.lineno}: not JSON ({error.msg})") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path}: a JSON file of problems is a list of objects")
    return iter(rows)


def _csv(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ",", strict=True)
        for number, row in enumerate(reader, 1):
            if None in row:  # an unquoted comma would cut the text at it
                raise UserError(
                    f"{path}, row {number}: more cells than the header; quote its texts"
                )
            yield row


def _parquet(path: Path) -> Iterator[Row]:
    from pyarrow import parquet

    return iter(parquet.read_table(path).to_pylist())


def _hub(data: Data) -> Iterator[Row]:
    from datasets import load_dataset
    from datasets.exceptions import DatasetNotFoundError

    try:
        rows: Any = load_dataset(data.source, split=data.split, revision=data.revision)
        return iter(rows)
    except (DatasetNotFoundError, ConnectionError, OSError, ValueError) as error:
        raise UserError(
            f"data.source: '{data.source}' is neither a file nor a dataset that can be loaded"
            f" ({str(error).splitlines()[0]})"
        ) from error
