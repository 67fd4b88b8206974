"""One damaged file, of a run or an evaluation: the right end, or one line that names the file."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.faults import damages, ends
from tests.faults.commands import STEPS, World
from tests.faults.processes import Ended, forked
from tests.faults.tally import HANG, TRACEBACK, UNCLEAR, UNEQUAL, Outcome

Right = Callable[[Ended], str]
"""What differs in the end of a command that has said nothing; empty where nothing does."""
_JOURNALS = ("metrics.jsonl", "rank0.jsonl")


class Scene(NamedTuple):
    """A folder, the files of it that may be damaged, a command, and what is right of its end."""

    kind: str
    files: Sequence[Path]
    command: list[str]
    right: Right


def tried(seed: int, world: World) -> Iterator[Outcome]:
    chance = random.Random(seed)
    place = world.place(f"damage-{seed}")
    scene = chance.choice(SCENES)(chance, world, place)
    file = chance.choice(scene.files)
    name, damage = chance.choice(list(_damages(chance).items()))
    if damage is not None and not file.stat().st_size:
        name, damage = "gone", None
    damages.apply(damage, file)
    ended = forked(scene.command, place)
    failed, what = judged(ended, file, place, scene.right)
    yield Outcome(
        f"damage, then {scene.kind}", failed, f"{file.relative_to(place)}: {name}: {what}"
    )
    shutil.rmtree(place)


def judged(ended: Ended, file: Path, place: Path, right: Right) -> tuple[str, str]:
    if ended.code is None:
        return HANG, ended.told
    if "Traceback" in ended.told:
        return TRACEBACK, ended.told
    if ended.code == 0:
        differs = right(ended)
        return (UNEQUAL, f"{differs}\n{ended.told}") if differs else ("", "")
    # Of a model whose file reads well but says what cannot be, the folder is all that is known.
    named = file.name in ended.line or str(file.parent) in ended.line
    return ("", "") if named else (UNCLEAR, f"{ended.code}: {ended.told}")


def _damages(chance: random.Random) -> dict[str, damages.Damage]:
    return {
        "cut": damages.cut,
        "a bit": damages.flipped(chance.random()),
        "another bit": damages.flipped(chance.random()),
        "zeros": damages.zeros,
        "all zeros": damages.all_zeros,
        "empty": damages.empty,
        "gone": None,
    }


def _broken_off(world: World, place: Path) -> Path:
    """A run that was killed before its last checkpoint counted, with two that do."""
    run = place / "out"
    shutil.copytree(world.whole(world.command("train (everything)")).folder, run)
    for name in ("model", f"checkpoint-{STEPS}", *(f"checkpoint-{n}" for n in range(STEPS - 2))):
        shutil.rmtree(run / name, ignore_errors=True)
    return run


def _whole(world: World, place: Path) -> Path:
    """A run that has ended, with an evaluation of its model's beginning."""
    run = place / "out"
    shutil.copytree(world.whole(world.command("train (everything)")).folder, run)
    for folder in sorted(run.glob("checkpoint-*"))[:-1]:
        shutil.rmtree(folder)
    shutil.copytree(world.whole(world.command("evaluate")).folder, run / "eval")
    return run


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file())


def _resume(chance: random.Random, world: World, place: Path) -> Scene:
    """Of the newest checkpoint: nothing is lost, since the one before is there."""
    run, command = _broken_off(world, place), world.command("train (everything)")
    files = _files(run / f"checkpoint-{STEPS - 1}")

    def right(ended: Ended) -> str:
        aloud = f"checkpoint-{STEPS - 1} is skipped" in ended.told
        differs = _differs(command.end(run), world.whole(command).end)
        return differs or ("" if aloud else "nothing is said")

    return Scene("train --resume", files, command.again(run), right)


def _go_on(chance: random.Random, world: World, place: Path) -> Scene:
    """Of the run's own files. They carry no checksums: what was learned has to be right."""
    run, command = _broken_off(world, place), world.command("train (everything)")
    own = [file for file in _files(run) if "checkpoint-" not in str(file.relative_to(run))]

    def right(ended: Ended) -> str:
        return _differs(ends.learned(run), ends.learned(world.whole(command).folder))

    return Scene("train --resume (own files)", own, command.again(run), right)


def _evaluate(chance: random.Random, world: World, place: Path) -> Scene:
    folder, command = place / "out", world.command("evaluate")
    shutil.copytree(world.whole(command).folder, folder)
    whole = world.whole(command).end
    return Scene(
        "evaluate",
        _files(folder),
        command.again(folder),
        lambda ended: _differs(command.end(folder), whole),
    )


def _read(chance: random.Random, world: World, place: Path) -> Scene:
    """Reports of a run with an evaluation: of what has no checksum, that they come to an end."""
    run = _whole(world, place)
    name = chance.choice(("report", "inspect", "compare"))
    own = [file for file in _files(run) if file.parent == run or file.name in _JOURNALS]
    evaluation = _files(run / "eval")
    files = evaluation if name == "compare" else [*own, *evaluation]
    arguments = {"compare": [str(run / "eval"), str(run / "eval")]}.get(name, [str(run)])
    return Scene(name, files, [name, *arguments], lambda ended: "")


def _export(chance: random.Random, world: World, place: Path) -> Scene:
    run = _whole(world, place)
    source = chance.choice((run / "model", run / f"checkpoint-{STEPS}"))
    made = place / "made"
    whole = ends.weights(source)
    files = [file for file in _files(source) if file.parent == source]

    def right(ended: Ended) -> str:
        told = _differs({"weights": ends.weights(made)}, {"weights": whole})
        # A model's folder has no checksums: of a bit of a number nobody can tell.
        return "" if source.name == "model" and "lost" not in told else told

    return Scene(
        f"export {source.name.split('-')[0]}", files, ["export", str(source), str(made)], right
    )


SCENES = (_resume, _resume, _resume, _go_on, _evaluate, _read, _export)


def _differs(ours: ends.End, whole: ends.End) -> str:
    return ends.lost(ours, whole) or ends.unequal(ours, whole)
