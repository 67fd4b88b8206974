"""A step's rollouts: written with the newest weights, and no step lost where the engine fails."""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from accelerate.utils import gather_object

from opsd.methods.method import Method
from opsd.rollout.engine import EngineDown
from opsd.rollout.sources import Sampler, sources
from opsd.teacher.weights import AnyWeights
from opsd.types import Group, Problem

if TYPE_CHECKING:
    from opsd.training.trainer import OPSDTrainer


def writers(method: Method) -> list[AnyWeights]:
    """The weights, other than the student's own, that a method generates with."""
    chosen = [source.weights for source in sources(method.source)]
    chosen += [author.weights for author in method.authors]
    return list(dict.fromkeys(weights for weights in chosen if weights is not None))


def generated(trainer: OPSDTrainer, problems: Sequence[Problem], step: int) -> list[Group]:
    """A step's rollouts, by all processes or none. Raises EngineDown, on all of them, where one's
    engine has gone; the steps so far are in a checkpoint then."""
    groups, down = [], ""
    try:
        early = trainer.ahead.take(trainer.sampler)
        if early is None:
            trainer.sampler.earlier = earlier(trainer, problems)
            with trainer.whole(writers(trainer.method)):
                early = written(trainer, problems, step)
        groups = early
    except EngineDown as error:
        down = str(error)
    told = [line for line in gather_object([down]) if line]
    if not told:
        return groups
    trainer.save_last_step()
    raise EngineDown(f"{told[0]}; {step} steps are saved: mend it, and go on with --resume")


def begin_next(trainer: OPSDTrainer, problems: Sequence[Problem], step: int) -> None:
    """Has the engine write a later step's rollouts with the present weights from now on."""
    with trainer.whole():
        follow(trainer)
    trainer.sampler.earlier = earlier(trainer, problems)

    def write(problems: Sequence[Problem], sampler: Sampler, step: int) -> list[Group]:
        return _write(trainer, problems, sampler, step)

    trainer.ahead.begin(write, problems, trainer.sampler, step)


def written(trainer: OPSDTrainer, problems: Sequence[Problem], step: int) -> list[Group]:
    """What the source makes of these problems at a step, with what authors write of that."""
    follow(trainer)
    return _write(trainer, problems, trainer.sampler, step)


def _write(
    trainer: OPSDTrainer, problems: Sequence[Problem], sampler: Sampler, step: int
) -> list[Group]:
    groups = trainer.method.source(problems, sampler, step)
    for author in trainer.authors:
        groups = author(groups, sampler, step)
    return groups


def earlier(trainer: OPSDTrainer, problems: Sequence[Problem]) -> Counter[str]:
    """How often a problem is in this step on the processes before this one, by its id."""
    ids = gather_object([[problem.id for problem in problems]])
    return Counter(itertools.chain(*ids[: trainer.args.process_index]))


def follow(trainer: OPSDTrainer) -> None:
    """Hands the engine the weights that an optimizer step has changed, once it has written what it
    was asked for with those before."""
    if trainer.synced != trainer.state.global_step:
        trainer.ahead.wait()
    if trainer.synced != trainer.state.global_step:
        trainer.engine.sync(trainer.model)
        trainer.synced = trainer.state.global_step


@contextlib.contextmanager
def borrowed(trainer: OPSDTrainer, weights: AnyWeights) -> Iterator[None]:
    """The engine generates with other weights for a while."""
    with trainer.keepers[weights].use(trainer.model) as reader:
        trainer.engine.sync(reader)
        try:
            yield
        finally:
            trainer.synced = None
    follow(trainer)
