"""Which tokens of a rollout are taught: sequences of token ids, the positions at which predictions
are read, and the tokens there. Either the tokens of a completion, one after another, or the states
through which a masked diffusion model has generated it."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from random import Random
from typing import Annotated, ClassVar, Literal, Protocol, TypeVar

from pydantic import Field

from opsd.lm.layout import Ids, ModelInput
from opsd.parts import Slot, part
from opsd.prompts.contexts import Draw
from opsd.types import Rollout, Trajectory, UserError

T = TypeVar("T")


@dataclass(frozen=True)
class Canvas:
    """A masked diffusion model's canvas: its number of tokens, the ids of the mask and of the end
    token, and whether a token is predicted at the position before it (Dream) rather than at its own
    (LLaDA)."""

    length: int
    mask_id: int
    eos_id: int
    shifted: bool = False


@dataclass(frozen=True)
class TaughtRows:
    """One sequence after a prompt, and its taught tokens. `ids` are the final tokens, `positions`
    the taught ones; positions in `masked` are replaced by the mask.

    A token is predicted at its position plus `offset`: -1, by the one before it; 0, at its own.
    `logprobs` are the sampler's for the taught tokens (natural logs; None: unknown). `state` is the
    denoising step that follows. `hidden` are positions of the prompt that are masked too.
    """

    ids: tuple[int, ...]
    positions: Sequence[int]
    logprobs: tuple[float, ...] | None = None
    offset: int = -1
    masked: frozenset[int] = frozenset()
    hidden: frozenset[int] = frozenset()
    mask_id: int = -1
    state: int | None = None

    @cached_property
    def tokens(self) -> tuple[int, ...]:
        """The taught tokens."""
        return tuple(self.ids[i] for i in self.positions)

    def spread(self, values: Sequence[T], length: int) -> list[T | None]:
        """Expand values of the taught tokens to the first `length` tokens, with None for tokens
        that are not taught."""
        at = dict(zip(self.positions, values, strict=True))
        return [at.get(i) for i in range(length)]

    def after(self, prompt: Ids, revealed: Collection[int] = ()) -> ModelInput:
        """The model input with this sequence after a prompt, where `revealed` positions are shown
        although masked."""
        first = len(prompt)
        own = self._hiding(prompt, self.hidden)
        shown = self._hiding(self.ids, self.masked.difference(revealed))
        read: Sequence[int] = tuple(first + self.offset + i for i in self.positions)
        if isinstance(self.positions, range):
            start = first + self.offset
            read = range(start + self.positions.start, start + self.positions.stop)
        return ModelInput((*own, *shown), read)

    def _hiding(self, ids: Ids, masked: frozenset[int]) -> Ids:
        if not masked:
            return ids
        return [self.mask_id if i in masked else token for i, token in enumerate(ids)]

    def without(self, positions: Collection[int]) -> TaughtRows:
        """The same rows without those at the given positions."""
        kept = [i for i, position in enumerate(self.positions) if position not in positions]
        if len(kept) == len(self.positions):
            return self
        return replace(
            self,
            positions=tuple(self.positions[i] for i in kept),
            logprobs=self.logprobs and tuple(self.logprobs[i] for i in kept),
        )


class Rows(Protocol):
    """A rollout, its random draw, a diffusion model's canvas -> its taught rows. Custom rows
    inherit the defaults of all members that they do not define."""

    of_canvas: bool = False
    """Whether they are for masked diffusion models."""
    of_states: bool = False
    """Whether each is a state of the model's denoising."""

    def __call__(self, rollout: Rollout, draw: Draw, canvas: Canvas | None) -> list[TaughtRows]: ...


@part
class Tokens(Rows):
    """Every token of the completion, after the ones before it."""

    type: Literal["tokens"] = "tokens"

    def __call__(self, rollout: Rollout, draw: Draw, canvas: Canvas | None) -> list[TaughtRows]:
        ids = rollout.completion_ids
        return [TaughtRows(ids, range(len(ids)), rollout.logprobs)] if ids else []


TOKENS = Tokens()


@part
class States(Rows):
    """The states of a canvas in which a token before the first end token is still masked. In each
    one, the masked positions of the block that is being written, or of the whole canvas, are
    taught.

    All states (or `count` randomly drawn ones) in which more than `masked_above` of the canvas is
    masked; with `of="block"`, only if tokens follow the block. If a batch of rollouts is used for
    several steps, each step takes the next part of the states (d-OPSD, Luo et al. 2026, arXiv
    2606.18195; for whole canvases dOPSD, Dat et al. 2026, arXiv 2607.04428).
    """

    of: Literal["block", "canvas"] = "block"
    count: Annotated[int, Field(gt=0)] | None = None
    masked_above: Annotated[float, Field(ge=0, lt=1)] = 0.0
    type: Literal["states"] = "states"
    of_canvas: ClassVar[bool] = True
    of_states: ClassVar[bool] = True

    def __call__(self, rollout: Rollout, draw: Draw, canvas: Canvas | None) -> list[TaughtRows]:
        canvas, written = _denoised(rollout, canvas)
        n = len(written.ids)
        steps = [s for s in written.states if len(written.masked(s)) > self.masked_above * n]
        if self.of == "block":
            steps = [s for s in steps if written.block(s).stop < n]
        made = []
        for step in _chosen(steps, self.count, draw):
            inside = written.block(step) if self.of == "block" else range(n)
            masked = [i for i in written.masked(step) if i in inside]
            made.append(_state(written, step, masked, canvas))
        return made


@part
class Commits(Rows):
    """The tokens that each denoising step committed, given the state before it, with the
    log-probabilities from that step: the rows for a policy gradient over the trajectory. `count`
    limits it to that many randomly drawn steps of a rollout."""

    count: Annotated[int, Field(gt=0)] | None = None
    type: Literal["commits"] = "commits"
    of_canvas: ClassVar[bool] = True
    of_states: ClassVar[bool] = True

    def __call__(self, rollout: Rollout, draw: Draw, canvas: Canvas | None) -> list[TaughtRows]:
        canvas, written = _denoised(rollout, canvas)
        made = []
        for step in _chosen(written.states, self.count, draw):
            committed = [i for i in written.block(step) if written.steps[i] == step]
            rows = _state(written, step, committed, canvas)
            made.append(replace(rows, logprobs=tuple(written.logprobs[i] for i in committed)))
        return made


@part
class RandomMask(Rows):
    """A uniformly drawn number of the canvas's tokens, masked at random. Averaged per sequence,
    this is LLaDA's training loss in the form that draws a number (Nie et al. 2025, arXiv
    2502.09992, Eq. 6; Eq. 5 has the same expectation). The canvas behind a completion is filled
    with end tokens."""

    type: Literal["random_mask"] = "random_mask"
    of_canvas: ClassVar[bool] = True

    def __call__(self, rollout: Rollout, draw: Draw, canvas: Canvas | None) -> list[TaughtRows]:
        ids, canvas = _filled(rollout, canvas)
        random = Random(draw.seed)
        masked = random.sample(range(len(ids)), random.randint(1, len(ids)))
        return [_masked(ids, sorted(masked), canvas)]


@part
class MeanField(Rows):
    """The whole canvas masked, and a share of the prompt's tokens: one forward pass gives every
    token's probability, independently of the others (diffu-GRPO, Zhao et al. 2025, arXiv
    2504.12216, section 3.1; its share is 0.15)."""

    prompt: Annotated[float, Field(ge=0, lt=1)] = 0.15
    type: Literal["mean_field"] = "mean_field"
    of_canvas: ClassVar[bool] = True

    def __call__(self, rollout: Rollout, draw: Draw, canvas: Canvas | None) -> list[TaughtRows]:
        ids, canvas = _filled(rollout, canvas)
        random = Random(draw.seed)
        hidden = {i for i in range(len(rollout.prompt_ids)) if random.random() < self.prompt}
        behind = range(len(rollout.completion_ids), len(ids))
        rows = _masked(ids, range(len(ids)), canvas).without(behind)
        return [replace(rows, hidden=frozenset(hidden))]


AnyRows = Annotated[Rows, Slot("rows", Rows, (Tokens, States, Commits, RandomMask, MeanField))]


def refuse_unfit(rows: Rows, canvas: Canvas | None) -> None:
    """Raises UserError for rows that do not fit the kind of model."""
    if rows.of_canvas and canvas is None:
        raise UserError(
            "the method is for masked diffusion models, whose configuration has mask_token_id and"
            " is_causal: false; this model generates left to right: choose another method (opsd"
            " methods)"
        )
    if canvas is not None and not rows.of_canvas:
        raise UserError(
            "the model is a masked diffusion model, but the method's rollouts are generated left to"
            " right: choose a method for such models (opsd methods)"
        )


def _denoised(rollout: Rollout, canvas: Canvas | None) -> tuple[Canvas, Trajectory]:
    if canvas is None or rollout.trajectory is None:
        raise ValueError("rows of states need rollouts of a masked diffusion model")
    return canvas, rollout.trajectory


def _filled(rollout: Rollout, canvas: Canvas | None) -> tuple[tuple[int, ...], Canvas]:
    """A completion on the canvas, padded with end tokens; a longer one is kept as it is."""
    if canvas is None:
        raise ValueError("masked rows are of a masked diffusion model")
    ids = rollout.completion_ids
    return (*ids, *(canvas.eos_id,) * (canvas.length - len(ids))), canvas


def _chosen(steps: Sequence[int], count: int | None, draw: Draw) -> Iterator[int]:
    """The part of the steps for the current use of the rollouts, or `count` of them."""
    start, stop = (math.ceil(len(steps) * k / draw.uses) for k in (draw.use, draw.use + 1))
    own = steps[start:stop]
    if count is not None and count < len(own):
        own = sorted(Random(draw.seed).sample(own, count))
    yield from own


def _state(written: Trajectory, step: int, positions: Sequence[int], canvas: Canvas) -> TaughtRows:
    rows = _masked(written.ids, written.masked(step), canvas)
    return replace(rows, positions=tuple(positions), state=step)


def _masked(ids: tuple[int, ...], masked: Sequence[int], canvas: Canvas) -> TaughtRows:
    """A canvas with some positions masked; these are the taught ones."""
    return TaughtRows(
        ids,
        tuple(masked),
        offset=-1 if canvas.shifted else 0,
        masked=frozenset(masked),
        mask_id=canvas.mask_id,
    )
