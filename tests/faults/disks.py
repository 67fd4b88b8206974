"""Disks that fill up while a command writes: one line that names the place; with space again, the
end of a run that never lacked any."""

from __future__ import annotations

import contextlib
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

from tests.faults import ends
from tests.faults.commands import Command, World
from tests.faults.kills import finished, fruitless
from tests.faults.processes import Ended, forked
from tests.faults.tally import HANG, LOST, TRACEBACK, UNCLEAR, Outcome

_NAMES = ("train (everything)", "train (lora)", "train (stream)", "evaluate", "reproduce", "report")
_NAMES += ("export", "inspect")


def tried(seed: int, world: World) -> Iterator[Outcome]:
    chance = random.Random(seed)
    command = world.command(chance.choice(_NAMES))
    whole = world.whole(command).folder
    files = [file.stat().st_size for file in whole.rglob("*") if file.is_file()]
    place = world.place(f"full-{seed}")
    if chance.random() < 0.5 and mountable(str(world.folder)):
        size = chance.randint(4096, sum(files))
        with _small(place / "disk", size) as grow:
            yield _filled(f"full disk, {command.name}", command, world, place, None, grow)
    else:
        largest = chance.randint(1, max(files))
        (place / "disk").mkdir()
        yield _filled(f"full quota, {command.name}", command, world, place, largest, lambda: None)
    shutil.rmtree(place)


@cache
def mountable(folder: str) -> bool:
    """Whether a file system of our own can be mounted here, which needs root's rights."""
    place = Path(folder) / "mountable"
    place.mkdir()
    try:
        with _small(place, 1 << 20):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


@contextlib.contextmanager
def _small(place: Path, size: int) -> Iterator[Callable[[], None]]:
    """A file system of so many bytes; yields what makes it a large one."""
    place.mkdir(exist_ok=True)

    def mount(*options: str) -> None:
        subprocess.run(["mount", "-t", "tmpfs", *options], check=True, capture_output=True)

    mount("-o", f"size={size}", "tmpfs", str(place))
    try:
        yield lambda: mount("-o", "remount,size=1g", "tmpfs", str(place))
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def _filled(
    kind: str,
    command: Command,
    world: World,
    place: Path,
    largest: int | None,
    grow: Callable[[], None],
) -> Outcome:
    disk = place / "disk"
    folder = disk / "out"
    ended = forked(command.begin(folder), place, largest=largest)
    if wrong := _wrong(ended, disk):
        return Outcome(kind, *wrong)
    grow()
    if fruitless(command, folder):
        folder = disk / "another"
    last = forked(command.again(folder), place)
    return Outcome(kind, *finished(last, command, folder, world))


def _wrong(ended: Ended, disk: Path) -> tuple[str, str] | None:
    """What is wrong with how a command has ended that had no space, and with what it has left."""
    if ended.code is None:
        return HANG, ended.told
    if "Traceback" in ended.told:
        return TRACEBACK, ended.told
    if ended.code not in (0, 1) or (ended.code and str(disk) not in ended.line):
        return UNCLEAR, f"{ended.code}: {ended.told}"
    if file := ends.unreadable(disk / "out"):
        return LOST, file
    return None
