"""Worked examples: earlier turns of every problem's conversation, which show the form of an answer
to a model that would not answer in it otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pydantic import BaseModel, ConfigDict

from opsd.types import Message, Problem


class Example(BaseModel):
    """A problem and its solution, as a user's turn and an assistant's turn."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    problem: str
    solution: str


def after(problem: Problem, examples: Sequence[Example]) -> Problem:
    """The problem with worked examples before it; a system message stays first. It keeps its id,
    since it is the same problem.

    >>> shown = after(Problem("2 + 2?"), [Example(problem="1 + 1?", solution="2")])
    >>> [turn["content"] for turn in shown.prompt]
    ['1 + 1?', '2', '2 + 2?']
    """
    if not examples:
        return problem
    own = problem.prompt
    asked: list[Message] = [{"role": "user", "content": own}] if isinstance(own, str) else [*own]
    system = 1 if asked[0]["role"] == "system" else 0
    turns: list[Message] = []
    for example in examples:
        turns.append({"role": "user", "content": example.problem})
        turns.append({"role": "assistant", "content": example.solution})
    return replace(problem, prompt=(*asked[:system], *turns, *asked[system:]))
