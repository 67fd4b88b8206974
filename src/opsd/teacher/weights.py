"""With which weights a teacher reads. The choice is a value; `keeper.py` keeps it alive.

All but `external` differ from the student in the trainable parameters only. Under LoRA a frozen
teacher is the model with its adapter switched off, where that is the starting point.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from opsd.parts import part
from opsd.schedule import Decay


@part
class Frozen:
    """The student's starting weights, for the whole run."""

    type: Literal["frozen"] = "frozen"


@part
class EMA:
    """An exponential moving average of the student, kept in float32 from its starting weights:
    average <- decay average + (1 - decay) student.

    `per` says when: after every batch of rollouts, as SDPO and DemoPSD do, or after every optimizer
    step. The two differ where a batch is used for several steps (`reuse`).
    """

    decay: Decay = 0.999
    per: Literal["batch", "step"] = "batch"
    type: Literal["ema"] = "ema"


@part
class Live:
    """The student's current weights, without gradient. Known to be unstable (OPSD, issue 21)."""

    type: Literal["live"] = "live"


@part
class Snapshot:
    """A copy of the student, renewed every `every` optimizer steps."""

    every: Annotated[int, Field(gt=0)] = 25
    type: Literal["snapshot"] = "snapshot"


@part
class External:
    """Another model with the same tokenizer: a folder or a hub name. It brings its own head."""

    path: str
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    type: Literal["external"] = "external"


AnyWeights = Annotated[Frozen | EMA | Live | Snapshot | External, Field(discriminator="type")]


def moves(weights: AnyWeights, step: int, reuse: int) -> bool:
    """Whether weights may follow the student after this optimizer step, counted from 1, of a method
    that uses a batch of rollouts for `reuse` steps."""
    per_batch = isinstance(weights, EMA) and weights.per == "batch"
    return not per_batch or step % reuse == 0


def still(weights: AnyWeights) -> bool:
    """Whether no optimizer step changes them."""
    return isinstance(weights, Frozen | External)
