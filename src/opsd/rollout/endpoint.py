"""The client of a model behind an OpenAI-compatible endpoint: requests, retries, and log lines
about waiting."""

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
"""Seconds without a response after which a line is logged."""
_REFUSED = (401, 402, 403, 404)
"""Status codes that no other request would change."""
_BUSY = (408, 409, 429)
"""Status codes that the same request may not get again, like all from 500."""
_LONGEST_PAUSE = 60.0
T = TypeVar("T")


class NoAnswer(Exception):
    """An endpoint has not given a valid response to any attempt of a request. `reached` says
    whether the endpoint could be reached."""

    def __init__(self, reason: str, reached: bool) -> None:
        super().__init__(reason)
        self.reached = reached


@dataclass(frozen=True)
class ChatEndpoint:
    """One model behind an OpenAI-compatible endpoint. `timeout` is in seconds per attempt; `who`,
    the caller's name, begins every message."""

    client: Any
    model: str
    base_url: str | None
    timeout: float
    retries: int
    who: str

    def ask(self, read: Callable[[Any], T], **request: Any) -> T:
        """The result of `read` on the response to a chat completion's `request`. A failed attempt,
        or a response that `read` cannot read, is retried with increasing delays. Retries and slow
        responses are logged on standard error.

        Raises NoAnswer after the last attempt, and UserError if the endpoint refuses every request:
        a wrong key, an unknown model.
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
    """Seconds before the next attempt: half a second, then twice as long each time, at most 8."""
    return min(8.0, 0.5 * 2**number)


def _asked_for(headers: Mapping[str, str]) -> float | None:
    """The seconds that a response asks to wait; None if it does not, or gives a date."""
    for name, unit in (("retry-after-ms", 1000), ("retry-after", 1)):
        with contextlib.suppress(KeyError, ValueError):
            return min(_LONGEST_PAUSE, max(0.0, float(headers[name]) / unit))
    return None


def connect(
    model: str, base_url: str | None, key_variable: str, timeout: float, retries: int, who: str
) -> ChatEndpoint:
    """A client of a model behind an endpoint, OpenAI's own by default. Raises UserError, with `who`
    as the caller, if the `openai` client is not installed, or if OpenAI's endpoint has no key."""
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
    """An endpoint's address without credentials, for messages and files."""
    return cleaned(base_url or "OpenAI's endpoint")


def one_line(error: Any) -> str:
    return cleaned(" ".join(str(error.message).split())[:200])
