"""What an engine is: prompts as token ids in, completions as token ids out."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

from pydantic import Field

from opsd.parts import lacking, part, refuse_lacking, tag
from opsd.types import Finish, RunFailed, Trajectory, UserError

if TYPE_CHECKING:  # comparisons and reports read what engines wrote, and need no torch
    from torch import nn


class Progress(Protocol):
    """Told how many completions have ended since it was told last, and how many tokens have been
    written, 0 included, as often as an engine can; it may raise, which ends the call."""

    def __call__(self, done: int, tokens: int = 0, /) -> None: ...


def silent(done: int, tokens: int = 0) -> None:
    """Nobody watches."""


PROBE = "Check: 1 + 2 = 3."
"""What two readings of the same weights are compared on."""


Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Tolerance = Annotated[float, Field(gt=0)] | None
"""Nats by which an engine's log-probabilities may differ from the trainer's."""

LEAST_TEMPERATURE = 0.001
"""Below it, logits divided by the temperature leave the range of their numbers."""


@part
class Decoding:
    """How a masked diffusion model writes: block after block of `block_length` tokens, in each step
    `tokens_per_step` of the block's, those of which it is surest (`low_confidence` remasking), or
    any (LLaDA, Nie et al. 2025, arXiv 2502.09992)."""

    block_length: Annotated[int, Field(gt=0)] = 32
    tokens_per_step: Annotated[int, Field(gt=0)] = 2
    remasking: Literal["low_confidence", "random"] = "low_confidence"
    type: Literal["decoding"] = "decoding"


@dataclass(frozen=True)
class Sampling:
    """How completions are drawn. `temperature=0` is greedy; `max_tokens` is the horizon.
    `decoding` is how a masked diffusion model writes; None: as its generation_config.json says.

    `top_k=0`, `top_p=1` and `min_p=0` leave the distribution whole. Raises UserError for a
    temperature between 0 and `LEAST_TEMPERATURE`.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    max_tokens: int = 1024
    decoding: Decoding | None = None

    @property
    def whole(self) -> bool:
        """Whether nothing is cut off the distribution."""
        return self.top_p == 1 and self.top_k == 0 and self.min_p == 0

    def __post_init__(self) -> None:
        if self.temperature != 0 and not LEAST_TEMPERATURE <= self.temperature < math.inf:
            raise UserError(
                f"a temperature of {self.temperature:g}: 0 is greedy, else it is at least"
                f" {LEAST_TEMPERATURE:g}"
            )


@dataclass(frozen=True)
class Completion:
    """Token ids, the ending token included where there is one, and the natural log of each one's
    probability under the whole distribution at the sampling temperature; None where the engine
    does not tell. `trajectory` is how a masked diffusion model came to them."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...] | None
    finish: Finish
    trajectory: Trajectory | None = None


class EngineDown(RunFailed):
    """An engine that was there has gone. One line: which, and how it was noticed."""


class Engine(Protocol):
    """Generates with the weights that the model had when it was last synced, or has when it is
    called. Raises EngineDown where it cannot any more. One of your own inherits what it does not
    say otherwise."""

    shares_model: bool = False
    """Whether it generates with the very model that is trained."""
    is_remote: bool = False
    """Whether its weights stand still while the trainer's move, so that it may write meanwhile."""

    pins_weights: bool = False
    """Whether `pinned` weights stay while newer ones are handed over."""

    def pinned(self) -> AbstractContextManager[Engine]:
        """The engine as it is now: while the context lasts, it writes with the present weights,
        whatever is handed over meanwhile (of an engine that `pins_weights`)."""
        return nullcontext(self)

    def returns_logprobs(self, sampling: Sampling) -> bool:
        """Whether completions come with log-probabilities of the whole distribution."""
        return True

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        seeds: Sequence[int],
        progress: Progress | None = None,
    ) -> list[Completion]: ...

    def sync(self, model: Any) -> None: ...


@dataclass(frozen=True)
class EngineSetup:
    """What an engine starts with. `max_length` is in tokens, prompt and completion together,
    `batch_tokens` what may be in memory at once while the model itself generates; `vocab` is the
    number of ids that the tokenizer can produce."""

    model: nn.Module
    tokenizer: Any
    eos_ids: Sequence[int]
    vocab: int
    max_length: int
    batch_tokens: int = 65_536
    bf16: bool = False

    @property
    def probe(self) -> Sequence[int]:
        """Ids that two readings of the same weights are compared on."""
        return self.tokenizer(PROBE)["input_ids"]


class EngineChoice(Protocol):
    """A choice of engine. One of your own inherits what it does not say otherwise."""

    shares_model: bool = False
    """Whether it generates with the very model that it is started with, on its device."""
    place: str = ""
    """What evaluations tell its samples from another engine's by."""

    def start(self, setup: EngineSetup) -> Engine:
        """The engine at work. Raises UserError where it cannot be started."""
        ...


def at_work(engine: Engine | EngineChoice, setup: EngineSetup) -> Engine:
    """An engine as it is, or the one that a choice starts. Raises UserError, one line, for what is
    no engine."""
    found: Any = engine
    if lacking(found, Engine) and hasattr(found, "start"):
        found = found.start(setup)
    refuse_lacking(found, Engine, f"the engine {tag(found)}")
    return found


def prompt_seed(run_seed: int, step: int, problem_id: str, sample: int, phase: str) -> int:
    """The seed of one completion. Sampling depends on nothing else: not on the batch it falls in,
    not on the process, not on any global random state."""
    text = f"{run_seed}/{step}/{problem_id}/{sample}/{phase}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
