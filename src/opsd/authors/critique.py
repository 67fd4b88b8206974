r"""Checks a critique: it must repeat the rollout, with correct steps word for word and better ones
from the first wrong step on (arXiv 2606.11173; its prompt is not public, the checks are ours).

A critic answers with `CASE: A|B|C|D` (all correct; a step missing; unfinished; an error) and then
the solution. It must not quote the error: the teacher copies what it has just read, so the student
would learn the error.
"""

from __future__ import annotations

import re

from opsd.grade.ngrams import ngrams

_CASE = re.compile(r"\s*CASE:\s*([ABCD])\b[^\n]*\n(.+)", re.DOTALL)
_STEP = re.compile(r"<step_\d+>(.*?)(?=<step_\d+>|<answer>|$)", re.DOTALL)
_QUOTED = 0.9
"""A critique that contains this share of a wrong step's four-word sequences counts as quoting
it."""


def accepted(critique: str, completion: str) -> str | None:
    """The corrected solution in a critique; None if it does not have this form, changes what it
    calls correct, or repeats the step that it replaces."""
    match = _CASE.fullmatch(critique)
    if match is None:
        return None
    case, text = match[1], match[2].strip()
    if case == "A" and " ".join(text.split()) != " ".join(completion.split()):
        return None
    if case == "D":
        wrong = first_changed(completion, text)
        if wrong is None or quoted(wrong, text):
            return None
    return text


def steps(solution: str) -> list[str]:
    """The steps of a solution: those marked by `<step_i>` tags, else its lines.

    >>> steps("<step_1> 2 + 2 = 4 <step_2> so 4 <answer>4"), steps("2 + 2 = 4\\n\\nso 4")
    (['2 + 2 = 4', 'so 4'], ['2 + 2 = 4', 'so 4'])
    """
    tagged = _STEP.findall(solution)
    return [x.strip() for x in (tagged or solution.splitlines()) if x.strip()]


def first_changed(completion: str, critique: str) -> str | None:
    """The first step of a rollout that its critique does not repeat at the same place; None if it
    repeats all."""
    corrected = steps(critique)
    for number, step in enumerate(steps(completion)):
        if number >= len(corrected) or corrected[number] != step:
            return step
    return None


def shared_prefix(completion: str, critique: str) -> float:
    """The share of a rollout's steps that its critique repeats before the first change."""
    mine, corrected = steps(completion), steps(critique)
    same = 0
    for one, other in zip(mine, corrected, strict=False):
        if one != other:
            break
        same += 1
    return same / len(mine) if mine else 0.0


def quoted(step: str, text: str) -> bool:
    """Whether a text repeats a step: word for word, or nearly all of its four-word sequences."""
    words = step.split()
    n = max(1, min(4, len(words)))
    mine, theirs = ngrams(words, n), set(ngrams(text.split(), n))
    return bool(mine) and sum(gram in theirs for gram in mine) >= _QUOTED * len(mine)
