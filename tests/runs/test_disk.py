"""A full disk, as Python, Rust and torch hear of it: one line that names the place."""

from __future__ import annotations

import errno
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from opsd.runs.disk import writing
from opsd.runs.files import write_atomically
from opsd.runs.folder import RunFolder
from opsd.types import RunFailed

BLOCK = 20_000


@contextmanager
def quota(size: int) -> Iterator[None]:
    """No file of this process may grow beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


WRITERS: dict[str, Callable[[Path], object]] = {
    "python": lambda path: path.write_bytes(b"x" * BLOCK),
    "safetensors": lambda path: save_file({"w": torch.zeros(BLOCK)}, path),
    "torch": lambda path: torch.save({"w": torch.zeros(BLOCK)}, path),
}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("size", [1, 100, 5_000])
def test_whoever_writes_the_place_is_named(tmp_path: Path, writer: str, size: int):
    with quota(size), pytest.raises(RunFailed) as told, writing(tmp_path):
        WRITERS[writer](tmp_path / "file")
    assert str(told.value).startswith(f"{tmp_path} cannot be written (")
    assert "free some space" in str(told.value) and "\n" not in str(told.value)


def test_other_errors_stay_what_they_are(tmp_path: Path):
    for error in (OSError(errno.EACCES, "no"), RuntimeError("a shape"), ValueError("x")):
        with pytest.raises(type(error)) as raised, writing(tmp_path):
            raise error
        assert raised.value is error


def test_a_file_that_had_no_space_leaves_nothing_behind(tmp_path: Path):
    file = tmp_path / "page.html"
    write_atomically(file, "before")
    with quota(100), pytest.raises(RunFailed, match=r"page\.html cannot be written"):
        write_atomically(file, "x" * BLOCK)
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
    assert file.read_text() == "before"


def test_a_journal_that_had_no_space_is_named(tmp_path: Path):
    with quota(100), pytest.raises(RunFailed, match=r"metrics\.jsonl cannot be written"):
        RunFolder(tmp_path).append("metrics.jsonl", [{"x": "x" * BLOCK}])
