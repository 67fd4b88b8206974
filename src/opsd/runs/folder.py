"""A run folder: the files that training writes and every other part reads.

JSONL files are only appended to. A checkpoint records their sizes, and a resumed run truncates them
to those, so that a line that a kill left half-written is never read.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from opsd.console import log
from opsd.runs.disk import writing
from opsd.runs.files import held, to_json
from opsd.types import UserError

_JOURNAL = re.compile(r"metrics\.jsonl|rollouts/rank\d+\.jsonl|traces/rank0\.jsonl")
_BEFORE_THE_FIRST_STEP = {"env.json", "recipe.yaml", "data.json", "languages", "profile", "runs"}
"""Files that a failed start may have left, TensorBoard's `runs` included: nothing valuable."""


class RunFolder:
    """The JSONL files of one run. They are opened for one write at a time, so that a kill loses no
    line of a call that has returned."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @property
    def begun(self) -> bool:
        """Whether a run has written something here that it can resume from, or that is valuable."""
        return any(self.path.glob("checkpoint-*")) or _stepped(self.path / "metrics.jsonl")

    def refuse_taken(self) -> None:
        """Raises UserError if the folder already contains a run, or files that do not belong to a
        run, so that they are neither mixed with a new run's files nor overwritten."""
        if self.begun:
            remedy = "add --resume to continue it" if any(self.path.glob("checkpoint-*")) else ""
            raise UserError(
                f"{self.path} contains a run already: {remedy or 'move this folder away'}, or"
                " choose another --output"
            )
        # A run's own recipe is next to its env.json, which is written first.
        started = (self.path / "env.json").is_file()
        entries = sorted(self.path.iterdir()) if self.path.is_dir() else ()
        for file in (file for entry in entries for file in (entry, *entry.rglob("*"))):
            name = file.relative_to(self.path)
            own = name.parts[0] in _BEFORE_THE_FIRST_STEP or _JOURNAL.fullmatch(str(name))
            draft = file.name.endswith(".part")
            if _written(file) and not draft and not (started and own):
                raise UserError(
                    f"{self.path} contains {name.parts[0]}, and is not a run folder: choose another"
                    " --output"
                )

    def begin(self) -> None:
        """Prepare the folder for a new run, after `refuse_taken`. The rollouts of a start that
        failed during its first step are deleted."""
        self.refuse_taken()
        self.cut_back({})

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Lock this folder against training by other processes; the same process may lock it again.
        UserError if another process has locked it."""
        place = self.path.resolve()
        if place in _TRAINING:
            yield
            return
        with held(self.path, "training run"):
            _TRAINING.add(place)
            try:
                yield
            finally:
                _TRAINING.remove(place)

    def append(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append rows to a JSONL file in one write. RunFailed if the disk is full."""
        if not rows:
            return
        target = self.path / name
        text = "".join(to_json(row) + "\n" for row in rows)
        with writing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("a", encoding="utf-8") as file:
                file.write(text)

    def sizes(self, rank: int = 0, world: int = 1) -> dict[str, int]:
        """The sizes in bytes of the JSONL files that one of `world` processes is responsible for,
        by their names relative to the folder: its own rollouts, and for the first process
        everything else, including the rollouts of processes that no longer exist."""
        sizes = {}
        for file in self._journals():
            of = int(file.stem[4:]) if file.parent.name == "rollouts" else 0
            if rank == (of if of < world else 0):
                sizes[str(file.relative_to(self.path))] = file.stat().st_size
        return sizes

    def cut_back(self, sizes: Mapping[str, int]) -> None:
        """Truncate every JSONL file to an earlier size, and remove newer files. If a file is
        shorter than that, its complete lines are kept, and the loss is logged."""
        for file in self._journals():
            size, there = sizes.get(str(file.relative_to(self.path))), file.stat().st_size
            if size is None:
                file.unlink(missing_ok=True)
            elif size <= there:
                os.truncate(file, size)
            else:
                whole = file.read_bytes().rpartition(b"\n")
                os.truncate(file, len(whole[0] + whole[1]))
                log(f"{file} is shorter than at the checkpoint: {size - there:,} bytes are lost")
        for name in sizes:
            if not (self.path / name).is_file():
                log(f"{self.path / name} existed at the checkpoint, and is lost")

    def _journals(self) -> list[Path]:
        # By exact names: a run folder may contain the user's own files, which must not be
        # truncated.
        files = sorted(self.path.glob("*.jsonl")) + sorted(self.path.glob("*/*.jsonl"))
        return [f for f in files if _JOURNAL.fullmatch(str(f.relative_to(self.path)))]


def trained_model(source: str | Path) -> str:
    """The model that a run folder, a model's folder or a model's name refers to; for a run, its
    final model. UserError for a run that has not ended."""
    path = Path(source)
    if any((path / name).is_file() for name in ("config.json", "adapter_config.json")):
        return str(source)
    if not any((path / name).is_file() for name in ("recipe.yaml", "metrics.jsonl")):
        return str(source)
    if not (path / "model").is_dir():
        raise UserError(
            f"{path} has no model yet: let it finish (opsd train --resume), or name one of its"
            " checkpoint folders"
        )
    return str(path / "model")


def run_of(path: Path) -> Path:
    """The run folder that contains a model's folder (a checkpoint, `model`), or the folder
    itself."""
    own = path.name == "model" or path.name.startswith("checkpoint-")
    above = path.resolve().parent
    return path.parent if own and (above / "metrics.jsonl").is_file() else path


def step_of(path: Path) -> list[int]:
    """The step of a checkpoint folder in a run folder, as a list; empty for any other folder."""
    found = re.fullmatch(r"checkpoint-(\d+)", path.name)
    return [int(found[1])] if found and run_of(path) != path else []


def _stepped(metrics: Path) -> bool:
    """Whether a step, or anything that is not a log line, was written; the score of the starting
    model does not count."""
    if not _written(metrics):
        return False
    with metrics.open("rb") as file:
        return any(not line.startswith(b'{"step": 0,') for line in file)


def _written(path: Path) -> bool:
    """Whether this is a file with any content: a kill can come between creating it and the first
    write."""
    return path.is_file() and path.stat().st_size > 0


_TRAINING: set[Path] = set()
"""The folders that this process currently trains into."""
