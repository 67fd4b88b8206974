"""The default verifier: it compares a mathematical answer with the problem's gold answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from opsd.grade.answer import is_correct
from opsd.grade.choice import ChoiceVerifier, options_of
from opsd.grade.format import answer_part, extract_boxed, format_ok
from opsd.parts import part
from opsd.types import Attempt, Problem, Verdict


@part
class MathVerifier:
    r"""Reward 1 if the last `\boxed{}` is right, else 0.

    Numbers are read as in the problem's language. `after_think` is for models that reason inside
    `<think>`: only what follows `</think>` counts.

    >>> MathVerifier()(Problem("2 + 2 = ?", answer="4"), r"\boxed{4}").reward
    1.0
    """

    type: Literal["math"] = "math"
    after_think: bool = False
    needs_answer: ClassVar[bool] = True
    """Whether a problem without an answer cannot be graded."""
    reads_boxes: ClassVar[bool] = True
    r"""Whether the gold answer in a `\boxed{}` is a right completion, so that it can be tested."""

    def __call__(self, problem: Problem, completion: str) -> Verdict:
        """Grade one completion; `ValueError` for a problem that has no gold answer."""
        if not (problem.answer and problem.answer.strip()):
            raise ValueError(
                f"{problem.name} has no answer to grade against: add one, or leave the problem out"
            )
        correct = is_correct(completion, problem.answer, self.after_think, problem.language)
        return Verdict(float(correct), correct, format_ok(completion, self.after_think))

    def many(self, attempts: Sequence[Attempt | tuple[Problem, str]]) -> list[Verdict | None]:
        """Grade many (problem, completion) pairs, in their order; None for an unknown answer."""
        pairs = [(problem, completion) for problem, completion, *_ in attempts]
        return [self.of(p)(p, completion) if p.answer else None for p, completion in pairs]

    def said(self, problem: Problem, completion: str) -> str | None:
        """The answer that is boxed last, or the letter of the option that is chosen last."""
        if options_of(problem):
            return self.of(problem).said(problem, completion)
        return extract_boxed(answer_part(completion, self.after_think))

    def of(self, problem: Problem) -> MathVerifier | ChoiceVerifier:
        """The verifier of a problem: for multiple choice, one that reads letters."""
        return ChoiceVerifier(after_think=self.after_think) if options_of(problem) else self
