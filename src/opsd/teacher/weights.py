"""The choice of a teacher's weights. A choice is a value; when training starts, its `begin` creates
the weights themselves (`copies.py`, imported only then, since it needs all of FSDP), which are
updated during training and saved in checkpoints.

All but `external` and `served` differ from the student only in the trainable parameters. Under
LoRA, a frozen teacher is the model with its adapter disabled, if that is the starting point.
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
    """What weights are created from: the student's model; `starts_as_base`, whether disabling its
    adapter leaves its outputs exactly unchanged, so that a frozen teacher needs no copy; how to
    load another model; the tokenizer; and a function that returns the first `count` problems, each
    with the student's prompt as token ids."""

    model: nn.Module
    starts_as_base: bool
    load: Callable[[External], nn.Module]
    tokenizer: Any = None
    problems: Callable[[int], Sequence[tuple[tuple[int, ...], Problem]]] = lambda count: ()


class Weights(Protocol):
    """A choice of weights. A custom choice inherits the defaults of all attributes that it does not
    define."""

    is_student: bool = True
    """Whether they are the student's current or earlier weights rather than another model's."""
    changes: bool = True
    """Whether they change during training; if not, their rows can be kept."""

    def begin(self, start: Start) -> TeacherWeights: ...

    def moves(self, step: int, reuse: int) -> bool:
        """Whether they may be updated after this optimizer step, counted from 1, if a method uses a
        batch of rollouts for `reuse` steps."""
        return True

    def warnings(self, steps: int) -> Iterator[str]:
        """Warnings about problems in a run of this many optimizer steps (0: unknown), one line each
        with the remedy."""
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

    `per` says when it is updated: after every batch of rollouts, as SDPO and DemoPSD do, or after
    every optimizer step. The two differ if a batch is used for several steps (`reuse`).
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
                f" {max(0.0, 1 - 3 / steps):.2g}, or use frozen"
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
                " never reach: lower 'every', or use frozen"
            )


@part
class External(Weights):
    """Another model with the same tokenizer: a folder or a Hub name. It brings its own head."""

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
    """Another model with the same tokenizer, whose weights do not change, behind
    `opsd serve-teacher` at one address or several (`url`).

    The servers send the last hidden states of the taught tokens, in `dtype` ("auto": as computed),
    and once the head, unless it is read locally from a checkpoint: the folder or Hub name `head`.
    `timeout` is the number of seconds for servers to start, to come back, and to answer.
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
    projected onto a `share` of their directions: those with the largest gradients of the answers'
    likelihood in the first `examples` solutions (SPD, Hao et al. 2026, arXiv 2605.22675). `over`
    selects whose tokens' likelihood: only the answer's, or the whole solution's."""

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
                "projected weights need a model without adapter: merge it first (opsd export"
                " --merge)"
            )
        projectors = projections(start.model, texts, self.share)
        return ProjectedStart(Frozen().begin(start), folded(start.model, projectors))


_SHIPPED = (Frozen, EMA, Live, Snapshot, External, Served, Projected)
AnyWeights = Annotated[Weights, Slot("weights", Weights, _SHIPPED)]
WeightsOfViews = Annotated[
    Weights | tuple[Weights, ...], Slot("weights", Weights, _SHIPPED, several=True)
]
"""One choice for all views, or one per view."""
