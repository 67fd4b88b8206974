"""Estimates what a translation will cost, before any request."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from opsd.languages.registry import language
from opsd.translate.asking import Question
from opsd.translate.gates import usual

_BYTES = 4
"""UTF-8 bytes per token if no tokenizer is named: about the value for English in most
vocabularies."""
_SOLUTION = 300
"""Tokens of a solution, if answers are checked by solving."""

Count = Callable[[str], int]


@dataclass(frozen=True)
class Estimate:
    """The number of requests, the tokens of their prompts, the estimated tokens of the replies, and
    the cost in dollars, from prices per million tokens."""

    requests: int
    prompt_tokens: int
    completion_tokens: int
    cost: float


def by_bytes(text: str) -> int:
    """The number of tokens of a text, estimated from its length.

    >>> by_bytes("Juma has 4 eggs.")
    4
    """
    return math.ceil(len(text.encode()) / _BYTES)


def counter(tokenizer: Any) -> Count:
    """A function that counts the tokens of a text with a tokenizer."""

    def count(text: str) -> int:
        return len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    return count


def estimate(
    questions: Sequence[Question],
    count: Count,
    price: tuple[float, float],
    *,
    back: bool = False,
    solver: bool = False,
) -> Estimate:
    """The cost of these questions; with `back` and `solver`, including the requests that translate
    every reply back and solve it."""

    @cache
    def tokens_per_character(code: str) -> float:
        known = language(code)
        text = f"{known.instruction} {known.transition} {known.think_prefix}"
        return count(text) / len(text)

    requests = into = out = 0
    for question in questions:
        prompt = sum(count(message["content"]) for message in question.messages)
        characters = len(question.text) * math.exp(usual(question.wanted).length)
        made = math.ceil(characters * tokens_per_character(question.wanted))
        requests, into, out = requests + 1, into + prompt, out + made
        given = count(question.text)
        if back:
            requests, into, out = requests + 1, into + prompt - given + made, out + given
        if solver:
            requests, into, out = requests + 1, into + made, out + _SOLUTION
    cost = (into * price[0] + out * price[1]) / 1e6
    return Estimate(requests, into, out, cost)
