"""Loads problems from files, the hub and the built-in world. Rows become `Problem`s; every row that
does not is an error or a counted drop."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from opsd.data.languages import language
from opsd.grade.answer import gold_answer
from opsd.miniature import NAMES
from opsd.types import Problem, UserError

_DEFAULT_COLUMNS = {
    "prompt": ("prompt", "problem", "question"),
    "answer": ("answer", "Answer", "answer_number"),
    "solution": ("solution",),
    "translation": ("translation", "problem_en"),
}
_GSM8K_CALCULATOR = re.compile(r"<<[^<>]*>>")
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


def problem(row: Mapping[str, Any], columns: Mapping[str, str], lang: str, where: str) -> Problem:
    """One row as a problem. `where` names it in errors: file and row number."""
    names = {**_found(row, columns), **columns}
    for name, column in names.items():
        if column not in row:
            have = ", ".join(map(str, row))
            raise UserError(f"{where}: no column '{column}' for '{name}'; columns: {have}")
    if "prompt" not in names:
        have = ", ".join(map(str, row))
        raise UserError(f"{where}: no problem; set data.columns.prompt to one of {have}")
    fields = {name: row[column] for name, column in names.items() if row[column] is not None}
    prompt = fields.pop("prompt", None)
    if not prompt:
        raise UserError(f"{where}: the column '{names['prompt']}' is empty")
    answer = fields.pop("answer", None)
    worked = str(answer) if answer is not None else ""
    if "solution" not in fields and _GSM8K_ANSWER.search(worked):
        fields["solution"] = worked
    privileged = {n: _boxed(str(text)) for n, text in fields.items() if n != "language"}
    return Problem(
        prompt if isinstance(prompt, str) else tuple(dict(m) for m in prompt),
        answer=gold_answer(worked) if answer is not None else None,
        language=str(fields.get("language", lang)),
        privileged=privileged,
    )


def _found(row: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, str]:
    """Columns under their usual names, for whatever the mapping leaves open."""
    found = {}
    for name, usual in _DEFAULT_COLUMNS.items():
        if name not in columns:
            found.update((name, column) for column in reversed(usual) if column in row)
    return found


def _boxed(text: str) -> str:
    r"""A GSM8K solution in the form that is asked for: no calculator marks, `\boxed{n}` last."""
    return _GSM8K_ANSWER.sub(r"\n\\boxed{\1}", _GSM8K_CALCULATOR.sub("", text))


def _built_in(data: Data) -> tuple[list[Problem], list[Problem]]:
    from opsd.miniature.world import problems

    train = problems(data.source, data.split, data.language, data.limit)
    dev = problems(data.source, "dev", data.language, int(data.dev)) if data.dev else []
    return train, dev


def _split(problems: list[Problem], data: Data) -> tuple[list[Problem], list[Problem]]:
    """Training problems in file order, at most `limit`; the dev problems by hash, none in both."""
    size = int(data.dev) if data.dev >= 1 else round(data.dev * len(problems))
    if size >= len(problems):
        raise UserError(f"data.dev takes {size} of {len(problems)} problems: none is left to train")
    dev = sorted({p.id: p for p in problems}.values(), key=lambda p: p.id)[:size]
    held_out = {p.id for p in dev}
    train = [p for p in problems if p.id not in held_out]
    return train[: data.limit], dev


def _rows(data: Data) -> Iterator[Mapping[str, Any]]:
    path = Path(data.source)
    readers = {".jsonl": _jsonl, ".json": _json, ".csv": _csv, ".tsv": _csv, ".parquet": _parquet}
    if path.suffix in readers:
        if not path.is_file():
            raise UserError(f"data.source: no file '{path}'")
        return readers[path.suffix](path)
    if path.exists():
        raise UserError(f"data.source: '{path}' is not one of {', '.join(readers)}")
    return _hub(data)


def _jsonl(path: Path) -> Iterator[Mapping[str, Any]]:
    with path.open(encoding="utf-8") as file:
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


def _json(path: Path) -> Iterator[Mapping[str, Any]]:
    try:
        rows = json.loads(path.read_text("utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {error.lineno}: not JSON ({error.msg})") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path}: a JSON file of problems is a list of objects")
    return iter(rows)


def _csv(path: Path) -> Iterator[Mapping[str, Any]]:
    with path.open(encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ",")


def _parquet(path: Path) -> Iterator[Mapping[str, Any]]:
    from pyarrow import parquet

    return iter(parquet.read_table(path).to_pylist())


def _hub(data: Data) -> Iterator[Mapping[str, Any]]:
    from datasets import load_dataset
    from datasets.exceptions import DatasetNotFoundError

    try:
        return iter(load_dataset(data.source, split=data.split, revision=data.revision))
    except (DatasetNotFoundError, ConnectionError, OSError, ValueError) as error:
        raise UserError(
            f"data.source: '{data.source}' is neither a file nor a dataset that can be loaded"
            f" ({str(error).splitlines()[0]})"
        ) from error
