"""The basic types that every other module uses. Imports no other module of ours, and no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from random import Random
from typing import Any, NamedTuple, Protocol

Message = dict[str, str]
Messages = tuple[Message, ...]

WHERE = "where"
"""The metadata key of the place that a problem's row was read from: a file and a line."""
COLUMNS = "columns"
"""The metadata key of the row itself: its values by column, which verifiers may read."""


class Finish(StrEnum):
    """Why a completion ended: the model stopped, or the length limit cut it off."""

    STOP = "stop"
    LENGTH = "length"


@dataclass(frozen=True)
class Problem:
    r"""A problem to solve, and the texts that a teacher may see in addition.

    `prompt` is the problem's text, or a conversation that ends with a user turn. `privileged`
    holds named texts that only a teacher reads (`solution`, `translation`, ...). `id` is a hash
    of the content, so that the same row has the same id in every run.

    >>> Problem("2 + 2 = ?", answer="4", privileged={"solution": r"\boxed{4}"}).text
    '2 + 2 = ?'
    """

    prompt: str | Messages
    answer: str | None = None
    language: str = "eng"
    privileged: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    id: str = ""

    def __post_init__(self) -> None:
        if not self.id:
            content = [self.prompt, self.answer, self.language, dict(self.privileged)]
            text = json.dumps(content, ensure_ascii=False, sort_keys=True)
            digest = hashlib.sha256(text.encode()).hexdigest()
            object.__setattr__(self, "id", digest[:16])

    @property
    def name(self) -> str:
        """The problem's name in messages: its file and line if known, else its id.

        >>> Problem("?", metadata={"where": "a.jsonl, line 7"}).name, Problem("?", id="x").name
        ('a.jsonl, line 7', 'problem x')
        """
        return self.metadata.get(WHERE, f"problem {self.id}")

    @property
    def text(self) -> str:
        """The problem itself: the prompt, or the last user turn of a conversation."""
        return self.prompt if isinstance(self.prompt, str) else self.prompt[-1]["content"]

    def column(self, name: str) -> Any:
        """The value of a column in the problem's row, else the privileged text, metadata or field
        of that name; None if there is none.

        >>> Problem("?", metadata={"columns": {"tests": ["assert f(1)"]}}).column("tests")
        ['assert f(1)']
        """
        own = {"prompt": self.prompt, "answer": self.answer, "language": self.language}
        for said in (self.metadata.get(COLUMNS, {}), self.privileged, self.metadata, own):
            if name in said:
                return said[name]
        return None


class Attempt(NamedTuple):
    """A completion of a problem, to be graded. Its token ids are empty if only its text is
    known."""

    problem: Problem
    completion: str
    completion_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """A verifier's verdict on one completion. `correct` implies nothing about the scale of
    `reward`."""

    reward: float
    correct: bool
    format_ok: bool
    feedback: str | None = None


@dataclass(frozen=True)
class Trajectory:
    """How a masked diffusion model filled a canvas: for each position the token id, the denoising
    step (from 0) that committed it, and the natural log of its probability at that step. State s is
    the canvas before step s. Blocks of `block_length` tokens were generated one after another.
    `end` is the position of the first end token, or the canvas length if there is none. Positions
    behind it that were never filled count as committed after the last step."""

    ids: tuple[int, ...]
    steps: tuple[int, ...]
    logprobs: tuple[float, ...]
    block_length: int
    end: int

    def masked(self, step: int) -> list[int]:
        """The positions that are still masked in a state."""
        return [i for i, committed in enumerate(self.steps) if committed >= step]

    def block(self, step: int) -> range:
        """The positions of the block that a step fills."""
        start = self.masked(step)[0] // self.block_length * self.block_length
        return range(start, min(start + self.block_length, len(self.ids)))

    @property
    def states(self) -> range:
        """The states in which a token up to the first end token is still masked."""
        return range(max(self.steps[: self.end + 1]) + 1)


@dataclass(frozen=True)
class Rollout:
    """One completion of one prompt, as token ids, which are never decoded and encoded again.

    `logprobs` are natural logs of the sampler's full distribution at the sampling temperature, one
    per completion token; None for text that was not sampled (a dataset's own solution).
    `trajectory` is the denoising trajectory of a masked diffusion model. `weights_version` is the
    number of optimizer steps that the student had taken when it generated the rollout; None if
    another model's weights generated it, or none did.
    """

    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    text: str
    finish: Finish
    logprobs: tuple[float, ...] | None = None
    verdict: Verdict | None = None
    trajectory: Trajectory | None = None
    weights_version: int | None = None


@dataclass(frozen=True)
class Advice:
    """A skill and a common mistake that were retrieved for a problem, with their share among all
    retrieved pairs. The shares of a problem's pairs sum to 1."""

    skill: str
    mistake: str
    share: float


@dataclass(frozen=True)
class Group:
    """A problem and the rollouts that are compared with one another. `notes` contains, per rollout,
    the texts that authors wrote about it, by name; None stands for a text that was not accepted.
    `retrieved` is the advice from a skill bank, None if no bank was queried."""

    problem: Problem
    rollouts: tuple[Rollout, ...]
    notes: tuple[Mapping[str, str | None], ...] = ()
    retrieved: tuple[Advice, ...] | None = None

    def note(self, i: int, name: str) -> str | None:
        """The text that an author wrote about rollout `i` under this name, else the problem's own
        privileged text."""
        written = self.notes[i] if self.notes else {}
        return written[name] if name in written else self.problem.privileged.get(name)

    @property
    def pass_rate(self) -> float:
        """Share of correct rollouts among the graded ones; 0 if none was graded."""
        verdicts = [r.verdict for r in self.rollouts if r.verdict is not None]
        return sum(v.correct for v in verdicts) / len(verdicts) if verdicts else 0.0


@dataclass(frozen=True)
class View:
    """One way to present a problem: a conversation, and text that the reply is forced to begin
    with.

    `prefill` is forced text after the assistant's header (a think prefix). It belongs to the
    prompt: it is never part of the loss and never counted in the token budget. `template_options`
    are passed to the chat template (`enable_thinking`). `scale` is the view's share if a loss reads
    several views separately. `reveals` says which further tokens of a diffusion model's canvas the
    view shows.
    """

    name: str
    messages: Messages
    prefill: str = ""
    template_options: Mapping[str, Any] = field(default_factory=dict)
    scale: float = 1.0
    reveals: Reveals | None = None


class Reveals(Protocol):
    """Which of the positions that are masked in a state a reader is shown nevertheless: from the
    trajectory, the state and a random generator to positions."""

    def revealed(self, written: Trajectory, step: int, random: Random) -> Sequence[int]: ...


class _OneLine(Exception):
    """An error whose message is always a single line, even if it quotes line breaks."""

    def __init__(self, told: str = "") -> None:
        super().__init__(" ".join(told.split()))


class RunFailed(_OneLine):
    """A run that cannot continue, although its input is valid. The message is one line: what
    happened, what is saved, and what to do. Exit code 1."""


class UserError(_OneLine):
    """The user's input is wrong. One line: what, where, and how to mend it. Exit code 2."""


CHOICES = "choices"
"""The metadata key of a multiple-choice problem's options, in the order of their letters."""
