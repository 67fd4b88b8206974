"""An author behind an OpenAI-compatible endpoint: requests are concurrent, retried, cached on disk,
and counted."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, astuple, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from opsd.authors.writing import AtWork, Place, Writing
from opsd.console import log
from opsd.parts import part
from opsd.rollout.endpoint import ChatEndpoint, NoAnswer, connect
from opsd.rollout.sources import Sampler
from opsd.runs.files import write_atomically
from opsd.types import Group, Message, UserError

_NAME = r"^[A-Za-z_][A-Za-z0-9_]*$"


@part
class EndpointAuthor(Writing):
    """A model behind an OpenAI-compatible endpoint writes.

    `base_url` is OpenAI's own by default; `key_variable` names the environment variable with the
    API key. `timeout` is in seconds per attempt. A failed request is repeated `retries` times with
    increasing delays; if it still fails, there is no text. Responses are kept in the folder
    `cache`, so that no request is paid for twice and a resumed run reads the same texts. `price` is
    in dollars per million prompt and completion tokens, to compute the cost.
    """

    model: str = ""
    base_url: str | None = None
    key_variable: str = "OPENAI_API_KEY"
    max_tokens: Annotated[int, Field(gt=0)] = 1024
    temperature: Annotated[float, Field(ge=0)] = 0.0
    concurrency: Annotated[int, Field(gt=0)] = 8
    retries: Annotated[int, Field(ge=0)] = 5
    timeout: Annotated[float, Field(gt=0)] = 120.0
    cache: str | None = ".opsd-authors"
    price: tuple[Annotated[float, Field(ge=0)], Annotated[float, Field(ge=0)]] = (0.0, 0.0)
    weights: None = None
    type: Literal["endpoint"] = "endpoint"

    def __post_init__(self) -> None:
        if not self.model:
            raise ValueError(f"the author '{self.name}' needs the name of the endpoint's model")
        if not re.match(_NAME, self.key_variable):  # it may be a key, so it is not shown
            raise ValueError("key_variable is the name of an environment variable, not a key")

    def begin(self) -> EndpointClient:
        """The author, ready to write. Raises UserError without a key, or without the `openai`
        client."""
        who = f"author '{self.name}'"
        about = (self.base_url, self.key_variable, self.timeout, self.retries, who)
        return EndpointClient(self, connect(self.model, *about))


@dataclass(frozen=True)
class Spent:
    """An endpoint's use: requests, responses from the cache instead, failed requests, and
    tokens."""

    requests: int = 0
    cached: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def __add__(self, other: Spent) -> Spent:
        return Spent(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


@dataclass
class EndpointClient(AtWork):
    """An endpoint's author during a run; `spent` counts over the whole run."""

    author: EndpointAuthor
    endpoint: ChatEndpoint
    spent: Spent = field(default_factory=Spent)

    def __call__(self, groups: Sequence[Group], sampler: Sampler, step: int) -> list[Group]:
        asked: dict[Place, str] = {}
        questions: dict[str, list[Message]] = {}
        for number, i in self.author.asked(groups):
            messages = list(self.author.view(groups[number], i).messages)
            asked[number, i] = key = json.dumps(messages)
            questions[key] = messages
        with ThreadPoolExecutor(self.author.concurrency) as pool:
            made = list(pool.map(self.answer, questions.values()))
        answers = dict(zip(questions, (text for text, _, _ in made), strict=True))
        for _, spent, _ in made:
            self.spent += spent
        reasons = [reason for _, _, reason in made if reason]
        if reasons:
            told = f"author '{self.author.name}': {len(reasons)} of {len(made)} questions have no"
            told = f"{told} answer ({reasons[-1]})"
            if len(reasons) == len(made):
                raise UserError(f"{told}; what is written is kept: fix it and resume")
            log(told)
        texts = {place: answers[key] for place, key in asked.items()}
        return self.author.noted(groups, texts)

    def answer(self, messages: list[Message]) -> tuple[str | None, Spent, str]:
        """The endpoint's response (from the cache if possible, None after the last failed attempt),
        what it cost, and the reason if there is none.

        Raises UserError if the endpoint refuses every request: a wrong key, an unknown model.
        """
        file = self._file(messages)
        if file is not None and file.is_file():
            with contextlib.suppress(ValueError, KeyError):  # truncated by a kill: requested again
                return json.loads(file.read_text("utf-8"))["text"], Spent(cached=1), ""
        text, spent, reason = self._asked(messages)
        if file is not None and text is not None:
            write_atomically(file, json.dumps({"text": text}, ensure_ascii=False))
        return text, spent, reason

    def _asked(self, messages: list[Message]) -> tuple[str | None, Spent, str]:
        try:
            text, used = self.endpoint.ask(
                _text_and_use,
                messages=messages,
                max_tokens=self.author.max_tokens,
                temperature=self.author.temperature,
            )
        except NoAnswer as error:
            return None, Spent(requests=1, failed=1), str(error)
        return text, Spent(requests=1) + used, ""

    @property
    def measured(self) -> dict[str, float]:
        """The counts so far, and the cost in dollars."""
        into, out = self.author.price
        cost = (self.spent.prompt_tokens * into + self.spent.completion_tokens * out) / 1e6
        return {**asdict(self.spent), "cost": cost}

    def state_dict(self) -> dict[str, Any]:
        return asdict(self.spent)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.spent = Spent(**state)

    def _file(self, messages: list[Message]) -> Path | None:
        if self.author.cache is None:
            return None
        author = self.author
        asked = [author.base_url, author.model, author.max_tokens, author.temperature, messages]
        digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
        return Path(author.cache) / digest[:2] / f"{digest}.json"


def _text_and_use(reply: Any) -> tuple[str, Spent]:
    """The text (empty if it was cut off) and its tokens."""
    choice = reply.choices[0]
    text = str(choice.message.content or "") if choice.finish_reason == "stop" else ""
    if reply.usage is None:
        return text, Spent()
    return text, Spent(0, 0, 0, reply.usage.prompt_tokens, reply.usage.completion_tokens)
