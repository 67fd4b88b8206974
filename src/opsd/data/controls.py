"""Problems with privileged texts that are not their own: controls that show how much of a reader's
gain comes from true privileged texts."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import replace

from opsd.types import Problem, UserError


def shuffled(problems: Sequence[Problem], seed: int) -> list[Problem]:
    """The problems with their privileged texts shuffled among them: the teacher reads the text of
    another problem. A gain that remains is not due to what the text says."""
    texts = [p.privileged for p in problems]
    random.Random(seed).shuffle(texts)
    return [replace(p, privileged=t, id="") for p, t in zip(problems, texts, strict=True)]


def wrong(problems: Sequence[Problem], seed: int) -> list[Problem]:
    """The problems with solutions that state another problem's answer wherever they stated their
    own. UserError for a solution that does not state its answer."""
    made = []
    for problem, answer in zip(problems, wrong_answers(problems, seed), strict=True):
        other = coming_to(problem, answer)
        if other is None:
            raise UserError(
                f"{problem.name}: its solution does not state its answer, {problem.answer}"
            )
        made.append(other)
    return made


def wrong_answers(problems: Sequence[Problem], seed: int) -> list[str]:
    """For every problem, the answer of another problem that differs from its own."""
    answers = [p.answer for p in problems]
    random.Random(seed).shuffle(answers)
    return [
        str(next(a for a in [*answers[i:], *answers[:i]] if a != problem.answer))
        for i, problem in enumerate(problems)
    ]


def coming_to(problem: Problem, answer: str) -> Problem | None:
    """The problem with a solution that states another answer; None if it does not state its own."""
    solution = problem.privileged["solution"]
    own = rf"(?<![\d.]){re.escape(str(problem.answer))}(?!\d|\.\d)"
    text = re.sub(own, answer, solution)
    return None if text == solution else with_solution(problem, text)


def with_solution(problem: Problem, text: str) -> Problem:
    """The problem with this text as its solution."""
    return replace(problem, privileged={**problem.privileged, "solution": text}, id="")
