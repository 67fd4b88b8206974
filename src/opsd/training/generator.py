"""Generates rollouts without a trainer: engine, sampler, source, authors, the weights that
generate, rollouts for later steps in advance, and the synchronisation of weights with the
engine."""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from accelerate.utils import gather_object
from torch import nn

from opsd.authors.writing import AtWork
from opsd.lm.sharding import summon_full_params
from opsd.methods.method import Method
from opsd.rollout.engine import Engine, EngineDown
from opsd.rollout.prefetch import RolloutPrefetcher
from opsd.rollout.sources import Sampler
from opsd.teacher.copies import TeacherWeights
from opsd.teacher.weights import Weights
from opsd.types import Group, Problem


@dataclass
class Generator:
    """Turns problems into a step's groups, including the authors' texts.

    `student` returns the model in its current state; `weights` are the other weights that may
    generate. `rank` is this process's number. All processes of a run must call all methods
    together.
    """

    method: Method
    student: Callable[[], nn.Module]
    weights: Mapping[Weights, TeacherWeights]
    sampler: Sampler
    authors: Sequence[AtWork] = ()
    rank: int = 0
    prefetcher: RolloutPrefetcher = field(default_factory=RolloutPrefetcher)

    def __post_init__(self) -> None:
        self.sampler = replace(self.sampler, use_weights=self._use_weights)
        self._synced: int | None = None
        self._step = 0

    @property
    def engine(self) -> Engine:
        """The engine that generates."""
        return self.sampler.engine

    def groups(self, problems: Sequence[Problem], step: int, total_steps: int = 0) -> list[Group]:
        """A step's groups: those that were generated in advance, or those that the source generates
        from the problems with the student's current weights.

        Raises EngineDown on all processes if the engine of one of them fails.
        """
        groups, down = [], ""
        try:
            early = self.prefetcher.take(step, self.sampler)
            if early is None:
                sampler = self._sampler(problems, total_steps, step)
                with self.full_params(writers(self.method)):
                    self.sync(step)
                    early = self._write(problems, sampler, step)
            groups = early
        except EngineDown as error:
            down = str(error)
        told = [line for line in gather_object([down]) if line]
        if told:
            raise EngineDown(told[0])
        return groups

    def begin(self, problems: Sequence[Problem], later: int, step: int, total_steps: int) -> None:
        """Start generating a later step's groups with the weights after `step` steps, unless that
        has been started before. If the engine fails, the error is raised when the groups are
        taken."""
        if later in self.prefetcher.steps:
            return
        sampler = self._sampler(problems, total_steps, step)
        try:
            with self.full_params():
                self.sync(step)
        except EngineDown as error:
            self.prefetcher.fail(later, error)
            return
        pinned = contextlib.ExitStack()
        engine = pinned.enter_context(self.engine.pinned())

        def write(own: Sampler) -> list[Group]:
            with pinned:
                return self._write(problems, own, later)

        self.prefetcher.begin(later, write, replace(sampler, engine=engine))

    def sync(self, step: int) -> None:
        """Send the engine the weights that an optimizer step has changed. Unless the engine keeps
        older weights, wait first until it has finished the requests made with them. `step` is the
        number of optimizer steps taken."""
        self._step = step
        if self._synced != step:
            if not self.engine.pins_weights:
                self.prefetcher.wait()
            self.engine.sync(self.student())
            self._synced = step

    def weights_changed(self) -> None:
        """Report that weights were loaded into the student other than by an optimizer step."""
        self._synced = None

    @contextlib.contextmanager
    def full_params(self, others: Iterable[Weights] = ()) -> Iterator[None]:
        """Within the block, the student's weights and the given others are complete on every
        process, so that each process can generate or score independently."""
        model = self.student()
        with contextlib.ExitStack() as stack:
            for weights in others:
                stack.enter_context(self.weights[weights].gathered(model))
            stack.enter_context(summon_full_params(model))
            yield

    def state_dict(self) -> dict[str, Any]:
        """This process's counts and its authors' states."""
        return {
            "generated_tokens": self.sampler.counts.generated_tokens,
            "skipped": self.sampler.counts.skipped,
            "authors": [author.state_dict() for author in self.authors],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a `state_dict`."""
        self.sampler.counts.generated_tokens = state["generated_tokens"]
        self.sampler.counts.skipped = state["skipped"]
        for author, own in zip(self.authors, state["authors"], strict=True):
            author.load_state_dict(own)

    def _write(self, problems: Sequence[Problem], sampler: Sampler, step: int) -> list[Group]:
        groups = self.method.source(problems, sampler, step)
        for author in self.authors:
            groups = author(groups, sampler, step)
        return list(groups)

    def _sampler(self, problems: Sequence[Problem], total_steps: int, version: int) -> Sampler:
        """The sampler of one step, with the weights after `version` steps. It is told which
        problems the processes with lower ranks sample, since those may be the same."""
        ids = gather_object([[problem.id for problem in problems]])
        earlier = Counter(itertools.chain(*ids[: self.rank]))
        return replace(
            self.sampler, total_steps=total_steps, earlier=earlier, weights_version=version
        )

    @contextlib.contextmanager
    def _use_weights(self, weights: Weights) -> Iterator[None]:
        """Within the block, the engine generates with other weights."""
        with self.weights[weights].use(self.student()) as reader:
            self.engine.sync(reader)
            try:
                yield
            finally:
                self._synced = None
        self.sync(self._step)


def writers(method: Method) -> list[Weights]:
    """The weights, other than the student's own, that a method generates with."""
    chosen = [phase.weights for phase in method.source.phases]
    chosen += [author.weights for author in method.authors]
    return list(dict.fromkeys(weights for weights in chosen if weights is not None))
