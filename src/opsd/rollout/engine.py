"""The engine protocol: prompts as token ids in, completions as token ids out."""

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

if TYPE_CHECKING:  # comparisons and reports read completions, and need no torch
    from torch import nn


class Progress(Protocol):
    """Called as often as an engine can, with the number of completions that ended and of tokens
    that were generated since the last call (possibly 0). It may raise, which ends the call."""

    def __call__(self, done: int, tokens: int = 0, /) -> None: ...


def silent(done: int, tokens: int = 0) -> None:
    """Ignore progress."""


PROBE = "Check: 1 + 2 = 3."
"""The text on which two forward passes of the same weights are compared."""


Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Tolerance = Annotated[float, Field(gt=0)] | None
"""The nats by which an engine's log-probabilities may differ from the trainer's."""

LEAST_TEMPERATURE = 0.001
"""Below it, logits divided by the temperature overflow."""


@part
class Decoding:
    """How a masked diffusion model generates: in blocks of `block_length` tokens, each filled by
    steps of `tokens_per_step` tokens. A step commits the tokens with the highest confidence
    (`low_confidence` remasking), or random ones (LLaDA, Nie et al. 2025, arXiv 2502.09992)."""

    block_length: Annotated[int, Field(gt=0)] = 32
    tokens_per_step: Annotated[int, Field(gt=0)] = 2
    remasking: Literal["low_confidence", "random"] = "low_confidence"
    type: Literal["decoding"] = "decoding"


@dataclass(frozen=True)
class Sampling:
    """How completions are sampled. `temperature=0` is greedy; `max_tokens` is the horizon.
    `decoding` is for masked diffusion models; None: as in their generation_config.json.

    `top_k=0`, `top_p=1` and `min_p=0` do not truncate the distribution. Raises UserError for a
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
        """Whether the distribution is not truncated."""
        return self.top_p == 1 and self.top_k == 0 and self.min_p == 0

    def __post_init__(self) -> None:
        if self.temperature != 0 and not LEAST_TEMPERATURE <= self.temperature < math.inf:
            raise UserError(
                f"a temperature of {self.temperature:g}: use 0 (greedy), or at least"
                f" {LEAST_TEMPERATURE:g}"
            )


@dataclass(frozen=True)
class Completion:
    """Token ids, including the end token if there is one, and the natural log of each one's
    probability under the untruncated distribution at the sampling temperature; None if the engine
    does not return it. `trajectory` is the denoising trajectory of a masked diffusion model."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...] | None
    finish: Finish
    trajectory: Trajectory | None = None


class EngineDown(RunFailed):
    """An engine that was running has failed. One line: which engine, and how it was noticed."""


class Engine(Protocol):
    """Generates with the weights of the last sync, or with the model's current weights. Raises
    EngineDown if it has failed. A custom engine inherits the defaults of all members that it does
    not define."""

    shares_model: bool = False
    """Whether it generates with the model that is being trained itself."""
    is_remote: bool = False
    """Whether it has its own copy of the weights, so that it can generate while the trainer updates
    its own."""

    pins_weights: bool = False
    """Whether `pinned` weights are kept while newer ones are synced."""

    def pinned(self) -> AbstractContextManager[Engine]:
        """The engine with its current weights: within the context it generates with them, whatever
        is synced meanwhile (for an engine that `pins_weights`)."""
        return nullcontext(self)

    def returns_logprobs(self, sampling: Sampling) -> bool:
        """Whether completions come with log-probabilities of the untruncated distribution."""
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
    """The setup that an engine starts with. `max_length` is in tokens, for prompt and completion
    together. `batch_tokens` limits the tokens in memory at once while the model itself generates.
    `vocab` is the number of ids that the tokenizer can produce."""

    model: nn.Module
    tokenizer: Any
    eos_ids: Sequence[int]
    vocab: int
    max_length: int
    batch_tokens: int = 65_536
    bf16: bool = False

    @property
    def probe(self) -> Sequence[int]:
        """The token ids on which two forward passes of the same weights are compared."""
        return self.tokenizer(PROBE)["input_ids"]


class EngineChoice(Protocol):
    """A choice of engine. A custom choice inherits the defaults of all members that it does not
    define."""

    shares_model: bool = False
    """Whether it generates with the model that it is started with, on that model's device."""
    place: str = ""
    """The label by which evaluations distinguish its samples from another engine's."""

    def start(self, setup: EngineSetup) -> Engine:
        """The started engine. Raises UserError if it cannot be started."""
        ...


def at_work(engine: Engine | EngineChoice, setup: EngineSetup) -> Engine:
    """The engine itself, or the one that a choice starts. Raises UserError, one line, for an object
    that is neither."""
    found: Any = engine
    if lacking(found, Engine) and hasattr(found, "start"):
        found = found.start(setup)
    refuse_lacking(found, Engine, f"the engine {tag(found)}")
    return found


def prompt_seed(run_seed: int, step: int, problem_id: str, sample: int, phase: str) -> int:
    """The seed of one completion. Sampling depends on nothing else: not on the batch, the process,
    or any global random state."""
    text = f"{run_seed}/{step}/{problem_id}/{sample}/{phase}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
