"""With which weights a teacher reads. The choice is a value, which training begins: what it begins
is kept alive, and in checkpoints (`copies.py`, imported then, since it needs all of FSDP).

All but `external` and `served` differ from the student in the trainable parameters only. Under LoRA
a frozen teacher is the model with its adapter switched off, where that is the starting point.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol

from pydantic import BeforeValidator, Field
from torch import nn

from opsd.parts import Slot, part
from opsd.schedule import Decay, at
from opsd.types import Problem, UserError

if TYPE_CHECKING:
    from opsd.teacher.copies import TeacherWeights


@dataclass(frozen=True)
class Start:
    """What weights begin with: the student's model; whether it reads with its adapter switched off
    exactly as it does now, so that a frozen teacher needs no copy; how another model is loaded; its
    tokenizer; the first so many problems, each with the student's prompt as token ids."""

    model: nn.Module
    starts_as_base: bool
    load: Callable[[External], nn.Module]
    tokenizer: Any = None
    problems: Callable[[int], Sequence[tuple[tuple[int, ...], Problem]]] = lambda count: ()


class Weights(Protocol):
    """A choice of weights. One of your own inherits what it does not say otherwise."""

    is_student: bool = True
    """Whether they are the student's, of now or of before, rather than another model's."""
    changes: bool = True
    """Whether optimizer steps change them: rows of those that stay can be kept."""

    def begin(self, start: Start) -> TeacherWeights: ...

    def moves(self, step: int, reuse: int) -> bool:
        """Whether they may follow the student after this optimizer step, counted from 1, of a
        method that uses a batch of rollouts for `reuse` steps."""
        return True

    def warnings(self, steps: int) -> Iterator[str]:
        """What is known to go wrong with them in a run of so many optimizer steps (0: unknown), a
        line each with its remedy."""
        yield from ()


@part
class Frozen(Weights):
    """The student's starting weights, for the whole run."""

    type: Literal["frozen"] = "frozen"
    changes: ClassVar[bool] = False

    def begin(self, start: Start) -> TeacherWeights:
        from opsd.teacher.copies import ParameterCopy, Unchanged

        if start.starts_as_base:
            return Unchanged(adapter_off=True)
        return ParameterCopy.of(start.model, kept=False)


@part
class EMA(Weights):
    """An exponential moving average of the student, kept in float32 from its starting weights:
    average <- decay average + (1 - decay) student.

    `per` says when: after every batch of rollouts, as SDPO and DemoPSD do, or after every optimizer
    step. The two differ where a batch is used for several steps (`reuse`).
    """

    decay: Decay = 0.999
    per: Literal["batch", "step"] = "batch"
    type: Literal["ema"] = "ema"

    def begin(self, start: Start) -> TeacherWeights:
        from opsd.teacher.copies import ParameterCopy

        return ParameterCopy.of(start.model, in_float32=True, move=self._move)

    def _move(self, step: int, total_steps: int) -> float:
        return 1 - at(self.decay, step - 1, total_steps)

    def moves(self, step: int, reuse: int) -> bool:
        return self.per == "step" or step % reuse == 0

    def warnings(self, steps: int) -> Iterator[str]:
        slowest = at(self.decay, steps - 1, steps) ** steps
        if steps > 0 and slowest > 0.95:
            yield (
                f"the EMA teacher will hardly move: {slowest:.0%} of it stays the"
                f" starting weights over {steps} steps; lower its decay to about"
                f" {max(0.0, 1 - 3 / steps):.2g}, or say frozen"
            )


@part
class Live(Weights):
    """The student's current weights, without gradient. Known to be unstable (OPSD, issue 21)."""

    type: Literal["live"] = "live"

    def begin(self, start: Start) -> TeacherWeights:
        from opsd.teacher.copies import Unchanged

        return Unchanged()

    def warnings(self, steps: int) -> Iterator[str]:
        yield (
            "a live teacher follows the student wherever it goes and is known to be unstable:"
            " try weights frozen, or ema"
        )


@part
class Snapshot(Weights):
    """A copy of the student, renewed every `every` optimizer steps."""

    every: Annotated[int, Field(gt=0)] = 25
    type: Literal["snapshot"] = "snapshot"

    def begin(self, start: Start) -> TeacherWeights:
        from opsd.teacher.copies import ParameterCopy

        return ParameterCopy.of(start.model, move=self._move)

    def _move(self, step: int, total_steps: int) -> float:
        return float(step % self.every == 0)

    def warnings(self, steps: int) -> Iterator[str]:
        if 0 < steps <= self.every:
            yield (
                f"the snapshot teacher is renewed every {self.every} steps, which {steps} steps"
                " never use: lower 'every', or say frozen"
            )


@part
class External(Weights):
    """Another model with the same tokenizer: a folder or a hub name. It brings its own head."""

    path: str
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    type: Literal["external"] = "external"
    is_student: ClassVar[bool] = False
    changes: ClassVar[bool] = False

    def begin(self, start: Start) -> TeacherWeights:
        from opsd.teacher.copies import Other

        return Other(start.load(self).requires_grad_(False).eval())


Url = Annotated[str, Field(pattern="^https?://")]


@part
class Served(Weights):
    """Another model with the same tokenizer, whose weights do not change, and with which
    `opsd serve-teacher` reads at one address or several (`url`).

    Last hidden states of the taught tokens come over the wire, in `dtype` ("auto": as the server
    computes), and the head once; or the head alone is read from a checkpoint here, the folder or
    hub name `head`. `timeout` is how many seconds servers may take to come up, to come back, and to
    answer.
    """

    url: Annotated[
        tuple[Url, ...],
        BeforeValidator(lambda given: (given,) if isinstance(given, str) else given),
        Field(min_length=1),
    ]
    head: str | None = None
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    timeout: Annotated[float, Field(gt=0)] = 600.0
    type: Literal["served"] = "served"
    is_student: ClassVar[bool] = False
    changes: ClassVar[bool] = False

    def begin(self, start: Start) -> TeacherWeights:
        from opsd.teacher.copies import Elsewhere
        from opsd.teacher.served import ServedReader

        reader = ServedReader(self.url, start.tokenizer, self.head, self.dtype, self.timeout)
        return Elsewhere(reader.about.fingerprint, reader)


@part
class Projected(Weights):
    """The student's starting weights, with the keys and values of the middle and the last layer
    projected onto the `share` of their directions that the answers of the first `examples`
    solutions pull along most (SPD, Hao et al. 2026, arXiv 2605.22675). `over` says whose tokens'
    likelihood pulls: the answers' own, or all of the solution's."""

    share: Annotated[float, Field(gt=0, le=1)] = 0.5
    examples: Annotated[int, Field(gt=0)] = 50
    field: str = "solution"
    over: Literal["answer", "solution"] = "answer"
    type: Literal["projected"] = "projected"
    changes: ClassVar[bool] = False

    def begin(self, start: Start) -> TeacherWeights:
        from opsd.teacher.projection import ProjectedStart, answered, folded, projections

        whole = self.over == "solution"
        texts = [
            answered(start.tokenizer, prompt, problem.privileged[self.field], whole=whole)
            for prompt, problem in start.problems(self.examples)
            if self.field in problem.privileged
        ]
        if hasattr(start.model, "peft_config") and not start.starts_as_base:
            raise UserError(
                "projected weights begin from a plain model: merge its adapter first (opsd export"
                " --merge)"
            )
        projectors = projections(start.model, texts, self.share)
        return ProjectedStart(Frozen().begin(start), folded(start.model, projectors))


_SHIPPED = (Frozen, EMA, Live, Snapshot, External, Served, Projected)
AnyWeights = Annotated[Weights, Slot("weights", Weights, _SHIPPED)]
WeightsOfViews = Annotated[
    Weights | tuple[Weights, ...], Slot("weights", Weights, _SHIPPED, several=True)
]
"""One choice for all views, or one for each."""
