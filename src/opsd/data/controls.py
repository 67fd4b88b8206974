"""Problems whose privileged texts are not their own: what a reader makes of them tells what it owes
to being told the truth."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import replace

from opsd.types import Problem, UserError


def shuffled(problems: Sequence[Problem], seed: int) -> list[Problem]:
    """The problems with their privileged texts dealt out anew: a teacher that is told of another
    problem. What is left of a gain is not due to what it was told."""
    texts = [p.privileged for p in problems]
    random.Random(seed).shuffle(texts)
    return [replace(p, privileged=t, id="") for p, t in zip(problems, texts, strict=True)]


def wrong(problems: Sequence[Problem], seed: int) -> list[Problem]:
    """The problems with solutions that come to another problem's answer, wherever they name their
    own. UserError for a solution that does not name it."""
    made = []
    for problem, answer in zip(problems, wrong_answers(problems, seed), strict=True):
        other = coming_to(problem, answer)
        if other is None:
            raise UserError(
                f"{problem.name}: its solution does not name its answer, {problem.answer}"
            )
        made.append(other)
    return made


def wrong_answers(problems: Sequence[Problem], seed: int) -> list[str]:
    """For every problem an answer of another one's that is not its own."""
    answers = [p.answer for p in problems]
    random.Random(seed).shuffle(answers)
    return [
        str(next(a for a in [*answers[i:], *answers[:i]] if a != problem.answer))
        for i, problem in enumerate(problems)
    ]


def coming_to(problem: Problem, answer: str) -> Problem | None:
    """A problem whose solution comes to another answer; None where it does not name its own."""
    solution = problem.privileged["solution"]
    own = rf"(?<![\d.]){re.escape(str(problem.answer))}(?!\d|\.\d)"
    text = re.sub(own, answer, solution)
    return None if text == solution else with_solution(problem, text)


def with_solution(problem: Problem, text: str) -> Problem:
    """A problem that is told this solution."""
    return replace(problem, privileged={**problem.privileged, "solution": text}, id="")
