"""The nouns every other module speaks of. Imports nothing of ours, and no torch."""

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
"""Where a problem's row stands, among its metadata: a file and a line."""
COLUMNS = "columns"
"""The row itself among a problem's metadata: its values by column, as verifiers may read them."""


class Finish(StrEnum):
    """Why a completion ended: the model stopped by itself, or the horizon cut it off."""

    STOP = "stop"
    LENGTH = "length"


@dataclass(frozen=True)
class Problem:
    r"""One thing to solve, and whatever a teacher may be told about it.

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
        """How messages call it: by its file and line where it has one, else by its id.

        >>> Problem("?", metadata={"where": "a.jsonl, line 7"}).name, Problem("?", id="x").name
        ('a.jsonl, line 7', 'problem x')
        """
        return self.metadata.get(WHERE, f"problem {self.id}")

    @property
    def text(self) -> str:
        """The problem itself: the prompt, or the last user turn of a conversation."""
        return self.prompt if isinstance(self.prompt, str) else self.prompt[-1]["content"]

    def column(self, name: str) -> Any:
        """What its row says in a column, or what it is told under that name; None where there is
        nothing of the name.

        >>> Problem("?", metadata={"columns": {"tests": ["assert f(1)"]}}).column("tests")
        ['assert f(1)']
        """
        own = {"prompt": self.prompt, "answer": self.answer, "language": self.language}
        for said in (self.metadata.get(COLUMNS, {}), self.privileged, self.metadata, own):
            if name in said:
                return said[name]
        return None


class Attempt(NamedTuple):
    """A completion of a problem, to be judged; its token ids are empty where it is only known as
    text."""

    problem: Problem
    completion: str
    completion_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """What a verifier says of one completion. `correct` implies nothing about `reward`'s scale."""

    reward: float
    correct: bool
    format_ok: bool
    feedback: str | None = None


@dataclass(frozen=True)
class Trajectory:
    """How a masked diffusion model has written a canvas: every token's id, the denoising step, from
    0, that committed it, and the natural log of its probability then. State s is the canvas before
    step s; blocks of `block_length` tokens were written one after another. `end` is the position of
    the first end token, or the length of a canvas without one; what was never written, behind it,
    is committed after the last step."""

    ids: tuple[int, ...]
    steps: tuple[int, ...]
    logprobs: tuple[float, ...]
    block_length: int
    end: int

    def masked(self, step: int) -> list[int]:
        """The positions that are still to come in a state."""
        return [i for i, committed in enumerate(self.steps) if committed >= step]

    def block(self, step: int) -> range:
        """The positions of the block that a step writes."""
        start = self.masked(step)[0] // self.block_length * self.block_length
        return range(start, min(start + self.block_length, len(self.ids)))

    @property
    def states(self) -> range:
        """The states in which a token up to the first end is still to come."""
        return range(max(self.steps[: self.end + 1]) + 1)


@dataclass(frozen=True)
class Rollout:
    """One completion of one prompt, as token ids. Never decoded and encoded again.

    `logprobs` are natural logs of the sampler's full distribution at the sampling temperature,
    one per completion token; None for text that was not sampled (a dataset's own solution).
    `trajectory` says how a masked diffusion model came to it. `weights_version` is how many
    optimizer steps the student had taken whose weights wrote it; None where others' did, or none.
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
    """A skill and a common mistake that fit a problem, and their share among all that were found;
    the shares of a problem's pairs sum to 1."""

    skill: str
    mistake: str
    share: float


@dataclass(frozen=True)
class Group:
    """A problem and the rollouts that belong together when they are compared. `notes` holds, per
    rollout, what authors wrote of it, by name; None is a text that was not accepted. `retrieved`
    is the advice of a skill bank, None where nobody asked one."""

    problem: Problem
    rollouts: tuple[Rollout, ...]
    notes: tuple[Mapping[str, str | None], ...] = ()
    retrieved: tuple[Advice, ...] | None = None

    def note(self, i: int, name: str) -> str | None:
        """What an author wrote of rollout `i` under this name, else the problem's own text."""
        written = self.notes[i] if self.notes else {}
        return written[name] if name in written else self.problem.privileged.get(name)

    @property
    def pass_rate(self) -> float:
        """Share of correct rollouts; 0 for rollouts that nobody graded."""
        verdicts = [r.verdict for r in self.rollouts if r.verdict is not None]
        return sum(v.correct for v in verdicts) / len(verdicts) if verdicts else 0.0


@dataclass(frozen=True)
class View:
    """One reading of a problem: a conversation, and text that the reply is made to begin with.

    `prefill` is forced text after the assistant's header (a think prefix). It belongs to the
    prompt: never in the loss, never counted in the budget. `template_options` go to the chat
    template (`enable_thinking`). `scale` is the view's share where several are told apart.
    `reveals` is what it shows besides of a diffusion model's canvas.
    """

    name: str
    messages: Messages
    prefill: str = ""
    template_options: Mapping[str, Any] = field(default_factory=dict)
    scale: float = 1.0
    reveals: Reveals | None = None


class Reveals(Protocol):
    """Which positions of a canvas a reader is shown that are still to come in a state: the
    trajectory, the state, random numbers -> positions."""

    def revealed(self, written: Trajectory, step: int, random: Random) -> Sequence[int]: ...


class _OneLine(Exception):
    """A message on one line, whatever it quotes."""

    def __init__(self, told: str = "") -> None:
        super().__init__(" ".join(told.split()))


class RunFailed(_OneLine):
    """A run that cannot go on, through no mistake in its input. One line: what happened, what is
    saved, and what to do. Exit code 1."""


class UserError(_OneLine):
    """The user's input is wrong. One line: what, where, and how to mend it. Exit code 2."""


CHOICES = "choices"
"""The options of a problem among its metadata, in the order of their letters."""
