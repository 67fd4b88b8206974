"""A model behind an OpenAI-compatible endpoint: asked, retried, and waited for aloud."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from opsd.console import log
from opsd.credentials import cleaned
from opsd.types import UserError
from opsd.validation import install

SLOW = 60.0
"""Seconds without an answer after which that is said."""
_REFUSED = (401, 402, 403, 404)
"""Replies that no other question would change."""
_BUSY = (408, 409, 429)
"""Replies that the same question may not get again; so are all from 500."""
_LONGEST_PAUSE = 60.0
T = TypeVar("T")


class NoAnswer(Exception):
    """An endpoint has not answered a question, or with what is no answer, as often as it was asked.
    `reached` says whether anybody is there."""

    def __init__(self, reason: str, reached: bool) -> None:
        super().__init__(reason)
        self.reached = reached


@dataclass(frozen=True)
class ChatEndpoint:
    """One model behind an OpenAI-compatible endpoint. `timeout` is in seconds and for one try;
    `who` asks stands before whatever is said."""

    client: Any
    model: str
    base_url: str | None
    timeout: float
    retries: int
    who: str

    def ask(self, read: Callable[[Any], T], **request: Any) -> T:
        """What `read` makes of the reply to a chat completion's `request`. A try that fails, and a
        reply that `read` cannot read, is repeated, later each time, and that is said on standard
        error; so is an answer that takes long.

        Raises NoAnswer after the last try, and UserError where the endpoint refuses whatever is
        asked: a wrong key, no such model.
        """
        import openai

        for number in range(self.retries + 1):
            try:
                with self._saying_if_slow():
                    reply = self.client.chat.completions.create(model=self.model, **request)
                return read(reply)
            except openai.APIStatusError as error:
                failure = NoAnswer(one_line(error), reached=True)
                if error.status_code in _REFUSED:
                    told = f"{shown(self.base_url)} refuses model '{self.model}'"
                    raise UserError(f"{self.who}: {told}: {failure}") from error
                if error.status_code < 500 and error.status_code not in _BUSY:
                    raise failure from error
                pause = _asked_for(error.response.headers) or _pause(number)
            except openai.APIConnectionError as error:
                failure, pause = NoAnswer(one_line(error), reached=False), _pause(number)
            except (openai.APIError, AttributeError, IndexError, TypeError, ValueError):
                failure = NoAnswer(f"{shown(self.base_url)} sends an invalid answer", reached=True)
                pause = _pause(number)
            if number == self.retries:
                raise failure
            left = self.retries - number
            log(f"{self.who}: {failure}; again in {pause:.1f} s (tries left: {left})")
            time.sleep(pause)
        raise AssertionError("retries are never negative")

    @contextlib.contextmanager
    def _saying_if_slow(self) -> Iterator[None]:
        told = f"{self.who}: no answer from {shown(self.base_url)} for {SLOW:g} s; one try may take"
        timer = threading.Timer(SLOW, log, [f"{told} {self.timeout:g} s"])
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


def _pause(number: int) -> float:
    """Seconds before another try, half a second and then twice as long each time."""
    return min(8.0, 0.5 * 2**number)


def _asked_for(headers: Mapping[str, str]) -> float | None:
    """Seconds that a reply asks to wait for; None where it does not say, or a date."""
    for name, unit in (("retry-after-ms", 1000), ("retry-after", 1)):
        with contextlib.suppress(KeyError, ValueError):
            return min(_LONGEST_PAUSE, max(0.0, float(headers[name]) / unit))
    return None


def connect(
    model: str, base_url: str | None, key_variable: str, timeout: float, retries: int, who: str
) -> ChatEndpoint:
    """A model behind an endpoint, OpenAI's own without a `base_url`. Raises UserError, in the name
    of `who` asks, where the `openai` client is not installed, and where OpenAI's needs a key."""
    try:
        import openai
    except ImportError as error:
        raise UserError(f"{who}: an endpoint needs: {install('endpoint')}") from error
    key = os.environ.get(key_variable)
    if key is None and base_url is None:
        raise UserError(f"{who}: no key in the environment variable {key_variable}")
    client = openai.OpenAI(api_key=key or "none", base_url=base_url, timeout=timeout, max_retries=0)
    return ChatEndpoint(client, model, base_url, timeout, retries, who)


def shown(base_url: str | None) -> str:
    """An endpoint's address as it may be told and kept: without credentials."""
    return cleaned(base_url or "OpenAI's endpoint")


def one_line(error: Any) -> str:
    return cleaned(" ".join(str(error.message).split())[:200])
