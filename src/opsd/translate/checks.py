"""Decides whether an attempt is accepted: by the gates, by how well the translation, translated
back, matches the English text, and by whether the solver finds the right answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from opsd.grade.answer import answers_match
from opsd.grade.format import extract_boxed
from opsd.translate.gates import GATES, Fault, Pair, judged
from opsd.translate.journal import Attempt
from opsd.types import Problem, UserError
from opsd.validation import install, unknown


@dataclass(frozen=True)
class Checks:
    """What a translation must pass: all gates except those in `without`, and, translated back, a
    chrF of at least `least_chrf` (0 to 100) with the English text."""

    without: tuple[str, ...] = ()
    least_chrf: float = 40.0

    def __post_init__(self) -> None:
        for name in self.without:
            if name not in GATES:
                raise UserError(f"--without: {unknown('gate', name, GATES)}")

    def faults(self, problem: Problem, attempt: Attempt) -> list[Fault]:
        """Why an attempt is rejected; empty if it is accepted."""
        found = judged(Pair(problem.text, attempt.text, attempt.language), self.without)
        if not attempt.whole:
            found.insert(0, Fault("complete", "cut off at --max-tokens"))
        if attempt.back is not None:
            score = chrf(attempt.back, problem.text)
            if score < self.least_chrf:
                told = f"chrF {score:.0f} of the text translated back, below {self.least_chrf:g}"
                found.append(Fault("back", told))
        solved, gold = attempt.solved, problem.answer
        if solved is not None and gold and not answers_match(solved, gold, attempt.language):
            told = f"solved to {(solved or 'no answer')[:40]}, not {gold[:40]}"
            found.append(Fault("solver", told))
        return found


def solved_answer(completion: str) -> str:
    """The answer that a solution states; empty if it states none."""
    return extract_boxed(completion) or ""


def chrf(text: str, reference: str) -> float:
    """The character n-gram F-score of a text against another one, 0 to 100 (chrF2, Popovic 2015,
    WMT), by sacrebleu.

    Raises UserError if sacrebleu is not installed.
    """
    try:
        from sacrebleu import sentence_chrf
    except ImportError as error:
        raise UserError(f"scoring with --back needs sacrebleu: {install('translate')}") from error
    return float(sentence_chrf(text, [reference]).score)


def counted(faults: Mapping[Any, Sequence[Fault]]) -> dict[str, int]:
    """How many attempts each gate rejects."""
    counts: dict[str, int] = {}
    for found in faults.values():
        for gate in {fault.gate for fault in found}:
            counts[gate] = counts.get(gate, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
