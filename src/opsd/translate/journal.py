"""A journal of translations: a line per attempt, in the order in which they arrived. If the process
is killed, no written attempt is lost, and none is written twice."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from opsd.runs.disk import writing
from opsd.runs.files import held, write_atomically
from opsd.runs.folder import RunFolder
from opsd.runs.json_files import as_type, document, rows, sealed
from opsd.types import UserError

_ATTEMPTS, _SETTINGS = "attempts.jsonl", "settings.json"
Place = tuple[int, str]
"""The number of a row in the source, from 0, and a language."""


@dataclass(frozen=True)
class Attempt:
    """One translation of a row, and the results that its checks use: the text translated `back`,
    and the solver's answer (`solved`); None if this was not requested. `id` is the source
    problem's, `whole` says whether the text is complete; tokens are those of all requests
    together."""

    row: int
    language: str
    sample: int
    id: str
    text: str
    whole: bool
    back: str | None = None
    solved: str | None = None
    requests: int = 0
    cached: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def place(self) -> Place:
        return self.row, self.language


_KIND = TypeAdapter(Attempt)


@contextmanager
def locked(folder: Path, about: Mapping[str, Any]) -> Iterator[None]:
    """Locks a folder for one translation at a time, and cuts off an incomplete last line of its
    journal.

    Raises UserError if another process writes to the folder, or if its translations have another
    source or other settings.
    """
    with held(folder, "translation"), writing(folder):
        begun = _made_whole(folder / _ATTEMPTS)
        if begun:
            hint = "; choose another --output"
            before = document(folder / _SETTINGS, hint)
            other = sorted(key for key in about if before.get(key) != about[key])
            if other:
                raise UserError(
                    f"{folder} contains translations of another kind: {', '.join(other)} (see"
                    f" {folder / _SETTINGS}){hint}"
                )
        write_atomically(
            folder / _SETTINGS, json.dumps(sealed(about), indent=1, ensure_ascii=False)
        )
        yield


def append(folder: Path, attempts: Sequence[Attempt]) -> None:
    """Appends attempts to the journal, in one write."""
    RunFolder(folder).append(_ATTEMPTS, [sealed(asdict(attempt)) for attempt in attempts])


def read(folder: Path) -> list[Attempt]:
    """All attempts, in the order in which they arrived. UserError if the file was changed."""
    path = folder / _ATTEMPTS
    if not path.is_file():
        return []
    return [
        as_type(_KIND, row, f"{path}, line {number}") for number, row in enumerate(rows(path), 1)
    ]


def latest(attempts: Sequence[Attempt]) -> dict[Place, Attempt]:
    """The last sample of every row and language."""
    return {a.place: a for a in sorted(attempts, key=lambda attempt: attempt.sample)}


def _made_whole(path: Path) -> bool:
    """Cuts off an incomplete last line; returns whether the file contains anything."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        os.truncate(path, sum(len(line) for line in file if line.endswith(b"\n")))
    return path.stat().st_size > 0
