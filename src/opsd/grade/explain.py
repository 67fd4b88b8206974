"""Explains a verdict: the steps of grading, in words."""

from __future__ import annotations

from opsd.grade.answer import compared, gold_answer
from opsd.grade.format import THINK_END, answer_part, extract_boxed
from opsd.grade.numerals import decimal_mark
from opsd.grade.verifier import MathVerifier
from opsd.types import Problem, Verdict

_SHOWN = 200


def explain(problem: Problem, completion: str, after_think: bool = False) -> tuple[Verdict, str]:
    """The verdict of `MathVerifier`, and a line for each step that led to it. ValueError for a
    problem without a gold answer."""
    verdict = MathVerifier(after_think=after_think)(problem, completion)
    return verdict, "\n".join([*_steps(problem, completion, after_think), _outcome(verdict)])


def _steps(problem: Problem, completion: str, after_think: bool) -> list[str]:
    part = answer_part(completion, after_think)
    if after_think and THINK_END not in completion:
        return [f"no {THINK_END}: a completion that is still thinking has not answered"]
    where = f"after {THINK_END}" if after_think else "the completion"
    boxes, said = part.count("\\boxed"), extract_boxed(part)
    if said is None:
        return [f"{where}: none of {boxes} \\boxed is complete and not empty"]
    gold = gold_answer(problem.answer or "")
    mark = decimal_mark(problem.language)
    return [
        f"{where}: the last complete one of {boxes} \\boxed counts: '{_short(said)}'",
        f"gold answer: '{_short(gold)}'",
        f"read with the decimal mark of {problem.language}, '{mark}', and with the English '.'",
        _short(compared(said, gold, problem.language).why, 4 * _SHOWN),
    ]


def _outcome(verdict: Verdict) -> str:
    right = "right" if verdict.correct else "wrong"
    return f"{right}, {'an answer is stated' if verdict.format_ok else 'no answer is stated'}"


def _short(text: str, most: int = _SHOWN) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[:most]} ... ({len(line):,} characters)"
