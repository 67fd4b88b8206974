"""Input that nobody meant: taken, or refused in one line; never a traceback, never for long."""

from __future__ import annotations

import random
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tests.faults import values
from tests.faults.commands import World
from tests.faults.processes import called
from tests.faults.tally import HANG, TRACEBACK, UNCLEAR, Outcome

from opsd.data import problems
from opsd.data.problems import Data
from opsd.grade import is_correct
from opsd.types import UserError

FUZZ = "tests.faults.fuzz"
"""Further kinds: its functions `tried_<kind>(seed)`, which say how an input was received."""
EACH = {"row": 900, "answer": 100}
OTHERS = 10
"""Inputs of a try, by kind: comparisons of answers cost milliseconds."""
SLOW = 60.0
"""Seconds after which an input counts as a hang: the grader's own limits, and a worker's start on a
busy machine, take less."""


def tried(seed: int, world: World) -> Iterator[Outcome]:
    """Some hundred inputs of every kind, in a process of their own."""
    place = world.place(f"input-{seed}")
    made = called(lambda: [[o.kind, o.failed, o.what] for o in _all(seed, place)], place)
    if isinstance(made, str):
        yield Outcome("input", HANG if made == "hangs" else TRACEBACK, made)
    else:
        yield from (Outcome(*parts) for parts in made)


def _all(seed: int, place: Path) -> Iterator[Outcome]:
    for kind, receive in kinds(place).items():
        for number in range(EACH.get(kind, OTHERS)):
            yield _received(kind, receive, seed * 1000 + number)


def kinds(place: Path) -> Mapping[str, Callable[[int], str]]:
    """What receives an input by its seed, by the kind; each says how: fine, one line, traceback."""
    own = {"row": lambda seed: _row(seed, place), "answer": _answer}
    others = vars(import_module(FUZZ)) if find_spec(FUZZ) else {}
    found = {n.removeprefix("tried_"): f for n, f in others.items() if n.startswith("tried_")}
    return {**own, **{kind: lambda seed, f=f: _said(f(seed)) for kind, f in found.items()}}


def _received(kind: str, receive: Callable[[int], str], seed: int) -> Outcome:
    start = time.perf_counter()
    try:
        said = receive(seed)
    except Exception:
        said = f"traceback of input {seed}: {traceback.format_exc()}"
    seconds = time.perf_counter() - start
    failed = "" if said in ("fine", "one line") else UNCLEAR
    failed = TRACEBACK if said.startswith("traceback") else failed
    if seconds > SLOW:
        failed, said = HANG, f"input {seed} took {seconds:.1f} s"
    return Outcome(f"input: {kind}", failed, said)


def _said(outcome: Any) -> str:
    return str(getattr(outcome, "value", outcome))


def _row(seed: int, place: Path) -> str:
    chance = random.Random(seed)
    file = place / "rows.jsonl"
    file.write_bytes(b"".join(values.row(chance) for _ in range(chance.choice((1, 1, 3)))))
    language = chance.choice((None, "swa", "eng"))
    try:
        problems.read(Data(source=str(file), language=language))
    except UserError as error:
        told = " ".join(str(error).split())  # as the command line says it
        clear = file.name in told and len(told) < 1000
        return "one line" if clear else f"input {seed}: {told}"
    return "fine"


def _answer(seed: int) -> str:
    chance = random.Random(seed)
    given, gold = values.answer(chance), values.answer(chance)
    gold = given if chance.random() < 0.1 else gold
    completion = chance.choice((rf"So \boxed{{{given}}}.", rf"\boxed{{{given}", given))
    is_correct(completion, gold, after_think=chance.random() < 0.1)
    return "fine"
