"""A run folder: the files that training writes and every other part reads.

JSONL files only ever grow; a checkpoint remembers their sizes, and a resumed run cuts them back
to those. A line that a kill left half-written is then never read.
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
"""What a start that failed may have left, TensorBoard's `runs` included: nothing of worth."""


class RunFolder:
    """The JSONL files of one run. Opened for one write at a time, so that a kill loses no line
    that an earlier call has returned from."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @property
    def begun(self) -> bool:
        """Whether a run has written something here that it may go on from, or that is of worth."""
        return any(self.path.glob("checkpoint-*")) or _stepped(self.path / "metrics.jsonl")

    def refuse_taken(self) -> None:
        """Raises UserError where the folder holds a run already, or files that are no run's: what
        is there is neither mixed with a new run's files nor overwritten by them."""
        if self.begun:
            remedy = "add --resume to go on with it" if any(self.path.glob("checkpoint-*")) else ""
            raise UserError(
                f"{self.path} holds a run already: {remedy or 'move this folder away'}, or choose"
                " another --output"
            )
        # A run's own recipe stands beside its environment, which is written first.
        started = (self.path / "env.json").is_file()
        entries = sorted(self.path.iterdir()) if self.path.is_dir() else ()
        for file in (file for entry in entries for file in (entry, *entry.rglob("*"))):
            name = file.relative_to(self.path)
            own = name.parts[0] in _BEFORE_THE_FIRST_STEP or _JOURNAL.fullmatch(str(name))
            draft = file.name.endswith(".part")
            if _written(file) and not draft and not (started and own):
                raise UserError(
                    f"{self.path} holds {name.parts[0]}, and is not a run folder: choose another"
                    " --output"
                )

    def begin(self) -> None:
        """Readies the folder for a new run, which is not `refuse_taken`: of a start that failed
        during its first step, the rollouts go."""
        self.refuse_taken()
        self.cut_back({})

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keeps other processes from training into this folder; within this one it may be held
        again. UserError where another process does."""
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
        """Adds rows to a JSONL file, in one write. RunFailed where the disk is full."""
        if not rows:
            return
        target = self.path / name
        text = "".join(to_json(row) + "\n" for row in rows)
        with writing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("a", encoding="utf-8") as file:
                file.write(text)

    def sizes(self, rank: int = 0, world: int = 1) -> dict[str, int]:
        """Bytes in the JSONL files that one of `world` processes answers for, by their names
        relative to the folder: its own rollouts, and the first process for all else, the rollouts
        of processes included that there are no longer."""
        sizes = {}
        for file in self._journals():
            of = int(file.stem[4:]) if file.parent.name == "rollouts" else 0
            if rank == (of if of < world else 0):
                sizes[str(file.relative_to(self.path))] = file.stat().st_size
        return sizes

    def cut_back(self, sizes: Mapping[str, int]) -> None:
        """Returns every JSONL file to an earlier size, and removes those that came later. Of one
        that is shorter than it was, what is whole stays, and a line says what is lost."""
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
                log(f"{self.path / name} was there at the checkpoint, and is lost")

    def _journals(self) -> list[Path]:
        # By their very names: a run folder may hold files of the user's own, which nothing may cut.
        files = sorted(self.path.glob("*.jsonl")) + sorted(self.path.glob("*/*.jsonl"))
        return [f for f in files if _JOURNAL.fullmatch(str(f.relative_to(self.path)))]


def trained_model(source: str | Path) -> str:
    """The model that a run folder, a model's folder or a model's name stands for: of a run the one
    that it ended with. UserError for a run that has not ended."""
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
    """The run folder that a folder of a model lies in (a checkpoint, `model`), or the folder
    itself."""
    own = path.name == "model" or path.name.startswith("checkpoint-")
    above = path.resolve().parent
    return path.parent if own and (above / "metrics.jsonl").is_file() else path


def step_of(path: Path) -> list[int]:
    """The step of a checkpoint that lies in a run folder, under the Trainer's name; none of any
    other folder."""
    found = re.fullmatch(r"checkpoint-(\d+)", path.name)
    return [int(found[1])] if found and run_of(path) != path else []


def _stepped(metrics: Path) -> bool:
    """Whether a step has been logged, or what is no line of a log; the score of the model that a
    run begins with is nothing of worth."""
    if not _written(metrics):
        return False
    with metrics.open("rb") as file:
        return any(not line.startswith(b'{"step": 0,') for line in file)


def _written(path: Path) -> bool:
    """Whether this is a file that holds anything: a kill can come between making one and the first
    write."""
    return path.is_file() and path.stat().st_size > 0


_TRAINING: set[Path] = set()
"""The folders that this process trains into."""
