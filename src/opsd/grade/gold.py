"""Finds gold answers that no completion can match, before training on them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable

from opsd.grade.answer import gold_answer
from opsd.grade.choice import options_of
from opsd.grade.numerals import one_number, tidy
from opsd.grade.verifier import MathVerifier
from opsd.types import Problem

_SENTENCE = 6
"""From how many words on a gold answer is a sentence, which only the same words would match."""

_WORD = re.compile(r"(?<!\\)\b[^\W\d_]{2,}")
_SHOWN = 60


def gold_fault(problem: Problem) -> str | None:
    r"""Why hardly any completion can be right, or None: the verifier does not accept the gold
    answer itself, given as `\boxed{gold}`; or the gold answer is a sentence.

    >>> gold_fault(Problem("?", answer="48/2 = 24, so she sold 24 + 48 = 72 clips in all")) is None
    False
    >>> gold_fault(Problem("?", answer="72 clips")), gold_fault(Problem("?"))
    (None, None)
    """
    if not problem.answer:
        return None
    gold = gold_answer(problem.answer)
    try:
        accepted = MathVerifier().of(problem)(problem, rf"\boxed{{{gold}}}").correct
    except ValueError:
        accepted = False
    if not accepted:
        return "are not accepted by the verifier itself"
    spelled = len(_WORD.findall(gold)) >= _SENTENCE and one_number(tidy(gold)) is None
    if spelled and not options_of(problem):
        return r"are sentences, which only the same words match; end them with \boxed{} or ####"
    return None


def gold_remarks(problems: Iterable[Problem]) -> list[tuple[str, int]]:
    """What is wrong with gold answers: a line per fault with its first example, and how many gold
    answers have it."""
    faulty: dict[str, list[Problem]] = defaultdict(list)
    for problem in problems:
        if fault := gold_fault(problem):
            faulty[fault].append(problem)
    return [
        (f"gold answers {fault} (first: {_shown(found[0])})", len(found))
        for fault, found in faulty.items()
    ]


def _shown(problem: Problem) -> str:
    text = " ".join(str(problem.answer).split())
    return f"{problem.name}: '{text if len(text) <= _SHOWN else text[:_SHOWN] + ' ...'}'"
