"""Trains two models in one process, in turns, so that each one's author can be the other model.

Each model trains in a thread of its own, and only one thread runs at a time: a thread that has to
wait for the other model's texts hands over. So everything happens in one fixed order, and both end
with a checkpoint of the same step.
"""

from __future__ import annotations

import contextlib
import copy
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from opsd.console import log, speaking
from opsd.methods.method import Method
from opsd.runs import checkpoint
from opsd.training.config import OPSDConfig
from opsd.training.stopping import Stopped
from opsd.training.trainer import OPSDTrainer
from opsd.types import UserError


@dataclass
class Turns:
    """The state of the exchange: whose turn it is, and what each model has offered. `tell`
    contains, for each of the two, the function that makes it stop after its current step."""

    tell: tuple[Callable[[int], None], Callable[[int], None]]
    offers: tuple[deque[Any], deque[Any]] = field(default_factory=lambda: (deque(), deque()))
    finished: list[int | None] = field(default_factory=lambda: [None, None])
    """The number of steps that each had finished when it ended; None while it trains."""
    failures: list[BaseException] = field(default_factory=list)
    """The exceptions that they ended with, the cause first."""
    gates: tuple[threading.Semaphore, threading.Semaphore] = field(
        default_factory=lambda: (threading.Semaphore(0), threading.Semaphore(0))
    )

    def side(self, own: int) -> Side:
        """One model's end of the exchange."""
        return Side(self, own)

    def begin(self, own: int) -> None:
        """Waits for the first turn."""
        self.gates[own].acquire()

    def hand_over(self, own: int) -> None:
        """Let the other model run until it hands over, or ends."""
        other = 1 - own
        if self.finished[other] is None:
            self.gates[other].release()
            self.gates[own].acquire()

    def end(self, own: int, steps: int, failure: BaseException | None) -> None:
        """Report that one model has ended after `steps` steps. The other continues, and ends after
        as many."""
        other = 1 - own
        self.finished[own] = steps
        if failure is not None:
            self.failures.append(failure)
            stopped = isinstance(failure, KeyboardInterrupt)
            self.tell[other](signal.SIGINT if stopped else signal.SIGTERM)
        self.gates[other].release()


@dataclass(frozen=True)
class Side:
    """One model's side of the exchange, as passed to its author."""

    turns: Turns
    own: int

    def trade(self, step: int, offer: Any) -> Any:
        """Offer something, and return what the other model offers. Raises Stopped if that model has
        ended without finishing this step."""
        turns, own, other = self.turns, self.own, 1 - self.own
        turns.offers[own].append(offer)
        if not turns.offers[other]:
            turns.hand_over(own)
        steps = turns.finished[other]
        if steps is not None and steps <= step:
            raise Stopped
        return turns.offers[other].popleft()


def train_peers(trainers: Mapping[str, OPSDTrainer], resume: bool = False) -> None:
    """Train two models that write for each other; `trainers` maps their names to their trainers.
    Both are saved at the same steps. `resume` resumes from the newest step for which both have a
    complete checkpoint.

    A signal, or an error in one of them, ends both after the same step if possible; the error is
    raised. Raises UserError for trainers that cannot be trained in turns.
    """
    refuse_unequal({name: (x.method, x.args) for name, x in trainers.items()})
    names, pair = list(trainers), list(trainers.values())
    folders = (
        common_checkpoint({name: x.run.path for name, x in trainers.items()}) if resume else {}
    )
    turns = Turns((_teller(pair[0]), _teller(pair[1])))

    def run(own: int) -> None:
        trainer, failure = pair[own], None
        try:
            with speaking(names[own]), _met(trainer, turns.side(own)):
                trainer.train(resume_from_checkpoint=folders.get(names[own]))
        except BaseException as error:
            failure = error
        turns.end(own, trainer.state.global_step, failure)

    def wait_and_run() -> None:
        turns.begin(1)
        if not turns.failures:  # the first one failed before it handed over for the first time
            run(1)

    second = threading.Thread(target=wait_and_run, daemon=True)
    second.start()
    run(0)  # in the main thread, which receives signals
    second.join()
    if turns.failures:
        raise turns.failures[0]


def refuse_unequal(pair: Mapping[str, tuple[Method, OPSDConfig]]) -> None:
    """Raises UserError for two runs, by name, that would not reach the same steps, or could not
    take turns."""
    for name, (method, args) in pair.items():
        if not any(author.needs_peer for author in method.authors):
            raise UserError(
                f"{name}: no author of {method.name} is another model: choose a method with the"
                " author 'peer', or train each model by itself"
            )
        for key, (wrong, why) in _refused(method, args).items():
            if wrong:
                raise UserError(f"{name}: {key}: {why}")
    (_, first), (_, second) = pair.values()
    for key in ("max_steps", "save_steps", "save_strategy", "bf16", "fp16"):
        one, other = getattr(first, key), getattr(second, key)
        if one != other:
            raise UserError(
                f"peers take and save their steps together: {key} is {one} for one and {other} for"
                " the other; make them equal"
            )


def _refused(method: Method, args: OPSDConfig) -> dict[str, tuple[bool, str]]:
    """Settings with which one could end before the other, or run at the same time; and why."""
    kept, least = args.save_total_limit, 2 + bool(args.load_best_model_at_end)
    return {
        "accelerate launch": (args.world_size > 1, "peers are trained by one process"),
        "max_steps": (args.max_steps < 1, "peers take the same steps: set their number"),
        "max_generated_tokens": (
            args.max_generated_tokens is not None,
            "peers end together, after max_steps; leave it out",
        ),
        "collapse": (args.collapse == "stop", "peers end together: set 'warn' or 'ignore'"),
        "async_rollouts": (args.async_rollouts, "peers take turns; leave it out"),
        "save_total_limit": (
            kept is not None and kept < least,
            f"one of the two is saved first: keep at least {least}",
        ),
        "reuse": (method.reuse > 1, "peers write before every step; leave it at 1"),
    }


def common_checkpoint(runs: Mapping[str, Path]) -> dict[str, str]:
    """The newest complete checkpoints of the same step in all the run folders, by the folders'
    names. Raises UserError if there are none."""
    steps = set.intersection(*(set(checkpoint.complete(run)) for run in runs.values()))
    for step in sorted(steps, reverse=True):
        found = {name: run / f"checkpoint-{step}" for name, run in runs.items()}
        damage = {folder: checkpoint.damaged(folder) for folder in found.values()}
        if not any(damage.values()):
            return {name: str(folder) for name, folder in found.items()}
        for folder, why in damage.items():
            if why is not None:
                log(f"{folder} is skipped: {why}")
    listed = ", ".join(str(run) for run in runs.values())
    raise UserError(
        f"{listed} have no complete checkpoint of the same step to resume from: check --output, or"
        " start over in another one"
    )


def sharing_parameters(model: nn.Module) -> Any:
    """A copy of a model that shares its parameters and buffers: a base model that only adapters
    change is kept in memory once."""
    tensors = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})


@contextlib.contextmanager
def _met(trainer: OPSDTrainer, side: Side) -> Iterator[None]:
    """Within the block, a trainer's authors can reach the other model."""
    for author in trainer.generator.authors:
        author.meet(side)
    try:
        yield
    finally:
        for author in trainer.generator.authors:
            author.meet(None)


def _teller(trainer: OPSDTrainer) -> Callable[[int], None]:
    def tell(number: int) -> None:
        trainer.stop.leave_at(once=False)
        trainer.stop.number = number

    return tell
