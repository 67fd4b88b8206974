"""Commands that are killed, again and again, and go on: the end is that of one that was not."""

from __future__ import annotations

import random
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

from tests.faults import ends
from tests.faults.commands import Command, World
from tests.faults.processes import Ended, Kill, Run, forked, started
from tests.faults.tally import HANG, LOST, TRACEBACK, UNCLEAR, UNEQUAL, Outcome

from opsd.runs import checkpoint
from opsd.runs.folder import RunFolder
from opsd.types import UserError

SIGNALS = (*[signal.SIGKILL] * 6, signal.SIGTERM, signal.SIGTERM, signal.SIGINT, signal.SIGINT)
STARTED = 0.05
"""The share of tries with processes that begin with Python itself: they take seconds to import, and
those of commands with workers a minute."""
IMPORTS = 8.0
MOST = 5
"""Kills of one command, at most."""
_OFTEN = {"evaluate": 3, "reproduce": 0.7, "quickstart": 0.7, "export": 1}
_OFTEN |= {"report": 0.5, "inspect": 0.5}
"""How often a command is chosen, against 2 for a training of some kind."""


def tried(seed: int, world: World) -> Iterator[Outcome]:
    """One command that is killed a few times: an outcome per kill, and one more where what is left
    in the end is not right."""
    chance = random.Random(seed)
    command = chance.choices(world.commands, [_OFTEN.get(c.name, 2) for c in world.commands])[0]
    share = STARTED / 5 if command.name in ("reproduce", "quickstart") else STARTED
    run = started if chance.random() < share else forked
    kind = f"kill {command.name}" + (", from its first import" if run is started else "")
    place = world.place(f"kill-{seed}")
    folder = place / "out"
    for again in range(chance.randint(1, MOST)):
        if _exported(command, folder):
            break
        ended = run(command.again(folder), place, _kill(chance, command, world, run))
        if ended.code == 0:
            break
        failed, what = _wrong(ended, folder)
        yield Outcome(kind, failed, what)
        if failed:
            return
        if fruitless(command, folder):
            refused = run([*command.begin(folder), "--resume"], place)
            if refused.code != 2 or not refused.line:
                yield Outcome(kind, UNCLEAR, f"nothing to resume: {refused.code} {refused.told}")
                return
            folder = place / f"out-{again}"
    there = _exported(command, folder)
    last = Ended(0, "", 0.0) if there else run(command.again(folder), place)
    failed, what = finished(last, command, folder, world)
    if failed:
        yield Outcome(kind, failed, what)
    shutil.rmtree(place)


def finished(last: Ended, command: Command, folder: Path, world: World) -> tuple[str, str]:
    """What is wrong with the end of a command that had to go on."""
    if last.code is None:
        return HANG, last.told
    if last.code != 0:
        return (TRACEBACK if "Traceback" in last.told else UNCLEAR), f"{last.code}: {last.told}"
    whole = world.whole(command).end
    try:
        ours = command.end(folder)
    except (OSError, ValueError, UserError) as error:
        return LOST, f"what is left cannot be read: {error}"
    if missing := ends.lost(ours, whole):
        return LOST, missing
    differs = ends.unequal(ours, whole)
    return (UNEQUAL, differs) if differs else ("", "")


def _kill(chance: random.Random, command: Command, world: World, run: Run) -> Kill:
    number = chance.choice(SIGNALS)
    whole = world.whole(command)
    group = number == signal.SIGINT or chance.random() < 0.2
    if run is started:
        seconds = chance.uniform(0.0, whole.seconds + IMPORTS)
        return Kill(number, seconds=seconds, group=group)
    if chance.random() < 0.5:
        return Kill(number, seconds=chance.uniform(0.0, whole.seconds), group=group)
    change = chance.randint(1, max(1, whole.changes))
    return Kill(number, change=change, group=group, worker=chance.random() < 0.2)


def _wrong(ended: Ended, folder: Path) -> tuple[str, str]:
    """What is wrong with how a killed command has ended, and with what it has left."""
    if ended.code is None:
        return HANG, ended.told
    if "Traceback" in ended.told or "Exception ignored" in ended.told:
        return TRACEBACK, ended.told
    if ended.code in (1, 2, 130) and not ended.line:
        return UNCLEAR, f"{ended.code}: {ended.told}"
    if ended.code not in (1, 130, 143, -2, -9, -15):
        return UNCLEAR, f"{ended.code}: {ended.told}"
    if folder.is_dir() and (file := ends.unreadable(folder)):
        return LOST, file
    return "", ""


def _exported(command: Command, folder: Path) -> bool:
    """Whether an export's folder is there: it appears at once, and is not written again."""
    return command.name == "export" and folder.is_dir()


def fruitless(command: Command, folder: Path) -> bool:
    """Whether a training was killed before its first checkpoint, after its first rows."""
    trains = command.name.startswith("train")
    return trains and RunFolder(folder).begun and not checkpoint.complete(folder)
