"""Numbers that change with the optimizer step; a part takes them wherever it takes a number.

The code that computes never sees a schedule: `at` first replaces each one by the step's number.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import Discriminator, Field, Tag, ValidationError

from opsd.parts import changed, part, parts_of
from opsd.types import UserError

T = TypeVar("T")


@part
class Linear:
    """A number that moves linearly from `start` at the first step to `end` at the last of `steps`
    optimizer steps, and then stays at `end`. Without `steps` it takes the whole run."""

    start: float
    end: float
    steps: Annotated[int, Field(gt=1)] | None = None
    type: Literal["linear"] = "linear"

    def __call__(self, step: int, total_steps: int) -> float:
        last = (self.steps or total_steps) - 1
        return self.end if step >= last else self.start + (self.end - self.start) * step / last

    def __format__(self, spec: str) -> str:
        return f"{self.start:{spec}}..{self.end:{spec}}"


@part
class Joined:
    """Numbers and schedules in sequence, each for its own number of steps, which it counts from 0.
    The last one stays in force afterwards."""

    pieces: Annotated[
        tuple[tuple[Annotated[int, Field(gt=0)], float | Linear], ...], Field(min_length=1)
    ]
    type: Literal["joined"] = "joined"

    def __call__(self, step: int, total_steps: int) -> float:
        for steps, piece in self.pieces[:-1]:
            if step < steps:
                return at(piece, step, steps)
            step -= steps
        steps, piece = self.pieces[-1]
        return at(piece, step, steps)

    def __format__(self, spec: str) -> str:
        return ", ".join(f"{piece:{spec}} ({steps} steps)" for steps, piece in self.pieces)


def _kind(value: Any) -> str:
    if isinstance(value, Mapping):
        return str(value.get("type"))
    return getattr(value, "type", "number")


def _number(**bounds: float) -> Any:
    """A number within bounds, or a schedule of such numbers."""
    plain = Annotated[float, Field(**bounds), Tag("number")]
    schedules = Annotated[Linear, Tag("linear")] | Annotated[Joined, Tag("joined")]
    return Annotated[plain | schedules, Discriminator(_kind)]


if TYPE_CHECKING:  # the code that computes with them sees floats
    Number = Share = Positive = Decay = float
else:
    Number = _number()
    Share = _number(ge=0, le=1)
    Positive = _number(gt=0)
    Decay = _number(ge=0, lt=1)


def at(value: T, step: int, total_steps: int) -> T:
    """Replace the schedules in a value, at any depth, by their numbers at a step, which counts from
    0. Returns the value itself if it contains none.

    >>> at(Linear(0.5, 0.8), 100, 201), at((1.0, Linear(0, 1)), 0, 5)
    (0.65, (1.0, 0.0))
    """

    def number(x: Any) -> Any:
        return x(step, total_steps) if isinstance(x, Linear | Joined) else x

    return changed(value, number)


def check(value: Any, total_steps: int) -> None:
    """Raise UserError for a schedule that leaves its number's allowed range at some step."""
    if not any(isinstance(x, Linear | Joined) for x in parts_of(value)):
        return
    for step in range(total_steps):
        try:
            at(value, step, total_steps)
        except ValidationError as error:
            first = error.errors()[0]
            raise UserError(
                f"a schedule gives {first['loc'][0]} {first['input']:g} at step {step + 1}:"
                f" {first['msg']}"
            ) from error
