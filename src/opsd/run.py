"""A run folder: the files that training writes and every other part reads.

JSONL files only ever grow; a checkpoint remembers their sizes, and a resumed run cuts them back
to those. A line that a kill left half-written is then never read.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from opsd.types import UserError

_JOURNALS = ("metrics.jsonl", "samples.jsonl", "rollouts/*.jsonl", "traces/*.jsonl")
_PACKAGES = ("torch", "transformers", "peft", "accelerate", "datasets", "math-verify", "vllm")


class RunFolder:
    """The JSONL files of one run. Opened for one write at a time, so that a kill loses no line
    that an earlier call has returned from."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def append(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Adds rows to a JSONL file, in one write."""
        if not rows:
            return
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        with target.open("a", encoding="utf-8") as file:
            file.write(text)

    def sizes(self) -> dict[str, int]:
        """Bytes in every JSONL file of this run's training, by name relative to the folder."""
        return {str(f.relative_to(self.path)): f.stat().st_size for f in self._journals()}

    def cut_back(self, sizes: Mapping[str, int]) -> None:
        """Returns every JSONL file to an earlier size, and removes those that came later."""
        for file in self._journals():
            size = sizes.get(str(file.relative_to(self.path)))
            if size is None:
                file.unlink(missing_ok=True)
            else:
                os.truncate(file, size)

    def _journals(self) -> list[Path]:
        # By name: a run folder may hold files of the user's own, which nothing here may cut.
        return [file for name in _JOURNALS for file in sorted(self.path.glob(name))]


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
    """Writes a file that is either complete or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    draft.write_text(text, "utf-8")
    draft.replace(path)


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
    print(text, file=sys.stderr, flush=True)
