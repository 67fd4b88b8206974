"""Questions, and a model behind an OpenAI-compatible endpoint that answers them: several at a time,
at a limited rate, with a cache of answers."""

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
"""The least temperature of a further sample: with greedy decoding it would repeat the first one."""


@dataclass(frozen=True)
class Question:
    """A text to translate from one language into another (ISO 639-3); if both are the same, a
    problem to solve. `messages` is the prompt for a language model; `sample` counts from 0."""

    text: str
    given: str
    wanted: str
    messages: tuple[Message, ...]
    sample: int = 0


@dataclass(frozen=True)
class Reply:
    """The generated text, whether it is complete, and what it cost."""

    text: str
    whole: bool
    spent: Spent


class Asker(Protocol):
    """Answers questions. `batch` is how many it takes per call, `concurrency` how many calls may
    run at the same time."""

    batch: int
    concurrency: int

    def __call__(self, questions: Sequence[Question]) -> list[Reply]:
        """A reply to each question. Raises NoAnswer if an endpoint gives none, and UserError if it
        refuses every request."""
        ...


@dataclass(frozen=True)
class Sampled:
    """Sampling settings of replies. `temperature` applies to first samples."""

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
    """The endpoint that serves a model, and the rate limit of requests. `key_variable` names the
    environment variable that contains the API key; `timeout` is in seconds, for one request; a
    failed request is repeated up to `retries` times; `per_minute` limits the requests per minute,
    including repeated ones."""

    base_url: str
    key_variable: str = "OPENAI_API_KEY"
    concurrency: int = 8
    timeout: float = 120.0
    retries: int = 5
    per_minute: float | None = None
    cache: Path | None = None


class _Pace:
    """Lets callers through at equal intervals, `per_minute` of them."""

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
    """A client of an endpoint in which every request waits for its turn. It is its own `chat` and
    `completions`."""

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
            with contextlib.suppress(ValueError, KeyError, TypeError):  # cut off: request again
                kept = json.loads(file.read_text("utf-8"))
                return Reply(str(kept["text"]), bool(kept["whole"]), Spent(cached=1))
        # A first sample needs no seed, and not every endpoint accepts one.
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
    """The reply's text after any thinking. ValueError if the content is not a text, upon which the
    request is repeated."""
    choice = reply.choices[0]
    text = choice.message.content
    if text is not None and not isinstance(text, str):
        raise ValueError("the content is not a text")
    used = (reply.usage.prompt_tokens, reply.usage.completion_tokens) if reply.usage else (0, 0)
    whole = choice.finish_reason != "length"
    return Reply(answered(_encodable(text or "")), whole, Spent(1, 0, 0, *used))


def _encodable(text: str) -> str:
    """The text with a question mark for half a surrogate pair, which JSON may contain, but a UTF-8
    file cannot."""
    return text.encode("utf-8", "replace").decode()
