"""A run folder: the files that training writes and every other part reads.

JSONL files only ever grow; a checkpoint remembers their sizes, and a resumed run cuts them back
to those. A line that a kill left half-written is then never read.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import platform
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from opsd.credentials import cleaned
from opsd.full import writing
from opsd.types import UserError

_JOURNAL = re.compile(r"metrics\.jsonl|rollouts/rank\d+\.jsonl|traces/rank0\.jsonl")
_BEFORE_THE_FIRST_STEP = {"env.json", "recipe.yaml", "data.json", "languages", "profile", "runs"}
"""What a start that failed may have left, TensorBoard's `runs` included: nothing of worth."""
_PACKAGES = ("torch", "transformers", "peft", "accelerate", "datasets", "math-verify", "vllm")


class RunFolder:
    """The JSONL files of one run. Opened for one write at a time, so that a kill loses no line
    that an earlier call has returned from."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @property
    def begun(self) -> bool:
        """Whether a run has written something here that it may go on from, or that is of worth."""
        metrics = self.path / "metrics.jsonl"
        return any(self.path.glob("checkpoint-*")) or _written(metrics)

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
                    f"{self.path} holds {name.parts[0]}, and is no run folder: choose another"
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


def _written(path: Path) -> bool:
    """Whether this is a file that holds anything: a kill can come between making one and the first
    write."""
    return path.is_file() and path.stat().st_size > 0


_TRAINING: set[Path] = set()
"""The folders that this process trains into."""


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


def write_atomically(path: Path, text: str) -> None:
    """Writes a file that is either complete or not there. What is no file, as `/dev/stdout`, is
    written to, and stays what it is. RunFailed where the disk is full."""
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not path.is_file():
        path.write_text(text, "utf-8")
        return
    draft = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        with writing(path):
            draft.write_text(text, "utf-8")
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def environment() -> dict[str, Any]:
    """Versions, hardware and git state: what a reproduction or a bug report needs. No secrets."""
    import torch

    versions = {}
    for package in ("opsd", *_PACKAGES):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "versions": versions,
        "git": _git(),
    }


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _git() -> dict[str, Any] | None:
    """Commit of the working directory, and whether it has uncommitted changes."""
    try:
        commit, status = (
            subprocess.run(
                ["git", *command], capture_output=True, text=True, timeout=10, check=True
            ).stdout.strip()
            for command in (("rev-parse", "HEAD"), ("status", "--porcelain"))
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "dirty": bool(status)}


def log(text: str) -> None:
    """A line for people: standard error, so that `--json` keeps standard output to itself."""
    print(cleaned(text), file=sys.stderr, flush=True)
