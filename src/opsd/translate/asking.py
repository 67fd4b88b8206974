"""Whoever is asked: what a question is, and a model behind an OpenAI-compatible endpoint, several
questions at a time, not too many a minute, and none that the cache has an answer to."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from opsd.authors.endpoint import Spent
from opsd.prompts.prompt import answered
from opsd.rollout.endpoint import ChatEndpoint, connect
from opsd.runs.files import write_atomically
from opsd.types import Message

_ANOTHER = 0.7
"""The least temperature of a further sample, which a greedy one would only repeat."""


@dataclass(frozen=True)
class Question:
    """A text to be translated from one language into another (ISO 639-3), or a problem to be solved
    where both are the same. `messages` is how a language model is asked; `sample` counts from 0."""

    text: str
    given: str
    wanted: str
    messages: tuple[Message, ...]
    sample: int = 0


@dataclass(frozen=True)
class Reply:
    """What was written, whether it came to an end, and what it took."""

    text: str
    whole: bool
    spent: Spent


class Asker(Protocol):
    """Answers questions. `batch` is how many it takes at once, `concurrency` how many such calls
    side by side."""

    batch: int
    concurrency: int

    def __call__(self, questions: Sequence[Question]) -> list[Reply]:
        """A reply each. Raises NoAnswer where an endpoint has none, and UserError where it refuses
        whatever is asked."""
        ...


@dataclass(frozen=True)
class Sampled:
    """How replies are drawn. `temperature` is that of first samples."""

    max_tokens: int = 2048
    temperature: float = 0.0

    def at(self, sample: int) -> float:
        """The temperature of a sample.

        >>> Sampled().at(0), Sampled().at(1), Sampled(temperature=1.0).at(1)
        (0.0, 0.7, 1.0)
        """
        return self.temperature if sample == 0 else max(self.temperature, _ANOTHER)


@dataclass(frozen=True)
class Endpoint:
    """Where a model answers, and how often it may be asked. `key_variable` names the environment
    variable that holds the key; `timeout` is in seconds and for one try, of which there are at most
    `retries` more; `per_minute` bounds all tries of a minute."""

    base_url: str
    key_variable: str = "OPENAI_API_KEY"
    concurrency: int = 8
    timeout: float = 120.0
    retries: int = 5
    per_minute: float | None = None
    cache: Path | None = None


class _Pace:
    """Lets callers through at equal intervals, so many a minute."""

    def __init__(self, per_minute: float) -> None:
        self.interval = 60.0 / per_minute
        self.next = 0.0
        self.lock = threading.Lock()

    def wait(self) -> None:
        """Returns when the caller's turn has come."""
        with self.lock:
            now = time.monotonic()
            turn = max(now, self.next)
            self.next = turn + self.interval
        time.sleep(turn - now)


@dataclass
class _Paced:
    """A client of an endpoint, `chat` and `completions` at once, whose every try waits for its
    turn."""

    inner: Any
    pace: _Pace

    @property
    def chat(self) -> Any:
        return self

    @property
    def completions(self) -> Any:
        return self

    def create(self, **request: Any) -> Any:
        self.pace.wait()
        return self.inner.chat.completions.create(**request)


@dataclass
class EndpointAsker:
    """A model behind an endpoint."""

    model: str
    endpoint: Endpoint
    sampled: Sampled
    chat: ChatEndpoint = field(init=False)
    batch: int = 1

    def __post_init__(self) -> None:
        about = self.endpoint
        rest = (about.base_url, about.key_variable, about.timeout, about.retries, "translate")
        self.chat = connect(self.model, *rest)
        if about.per_minute is not None:
            in_turn = _Paced(self.chat.client, _Pace(about.per_minute))
            self.chat = replace(self.chat, client=in_turn)

    @property
    def concurrency(self) -> int:
        return self.endpoint.concurrency

    def __call__(self, questions: Sequence[Question]) -> list[Reply]:
        return [self._answer(question) for question in questions]

    def _answer(self, question: Question) -> Reply:
        file = self._file(question)
        if file is not None and file.is_file():
            with contextlib.suppress(ValueError, KeyError, TypeError):  # cut off: asked again
                kept = json.loads(file.read_text("utf-8"))
                return Reply(str(kept["text"]), bool(kept["whole"]), Spent(cached=1))
        # A first sample needs no seed; not every endpoint knows what one is.
        drawn: dict[str, Any] = {"seed": question.sample} if question.sample else {}
        reply = self.chat.ask(
            _read,
            messages=list(question.messages),
            max_tokens=self.sampled.max_tokens,
            temperature=self.sampled.at(question.sample),
            **drawn,
        )
        if file is not None:
            kept = {"text": reply.text, "whole": reply.whole}
            write_atomically(file, json.dumps(kept, ensure_ascii=False))
        return reply

    def _file(self, question: Question) -> Path | None:
        if self.endpoint.cache is None:
            return None
        how = [self.sampled.max_tokens, self.sampled.at(question.sample), question.sample]
        asked = [self.endpoint.base_url, self.model, *how, list(question.messages)]
        digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
        return self.endpoint.cache / digest[:2] / f"{digest}.json"


def _read(reply: Any) -> Reply:
    """What was said after any thinking. ValueError for what is no text, which is asked again."""
    choice = reply.choices[0]
    text = choice.message.content
    if text is not None and not isinstance(text, str):
        raise ValueError("the content is no text")
    used = (reply.usage.prompt_tokens, reply.usage.completion_tokens) if reply.usage else (0, 0)
    whole = choice.finish_reason != "length"
    return Reply(answered(_encodable(text or "")), whole, Spent(1, 0, 0, *used))


def _encodable(text: str) -> str:
    """The text with a question mark for half a character, which JSON may hold and no file can."""
    return text.encode("utf-8", "replace").decode()
