"""Verifier of Python code: it runs a problem's unit tests."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from opsd.grade.format import answer_part
from opsd.grade.texts import fenced
from opsd.parts import part
from opsd.sandbox.code import Limits, run_tests
from opsd.types import Attempt, Problem, Verdict

_AT_ONCE = min(8, os.cpu_count() or 1)
"""How many completions are tested at the same time, each in its own process."""


@part
class UnitTestVerifier:
    """Runs the Python code of a completion, and then the tests of its problem.

    The code is the last block fenced as Python, or all of the completion. The column `tests`
    contains the tests: Python code that raises if the solution is wrong, one text or a list of
    texts. A completion is correct if all tests pass. The reward is 1 then, else 0; with `reward:
    share`, it is the share of tests that pass. `format_ok` is true if the code is valid Python. The
    feedback is the first failure.

    Each completion runs in a process of its own (`opsd.sandbox.code`): `cpu_s` and `wall_s` are
    seconds of CPU and of the clock for a solution with all its tests, `memory_mib` is its memory
    in MiB. `after_think` as in `MathVerifier`.
    """

    tests: str = "tests"
    reward: Literal["all", "share"] = "all"
    cpu_s: Annotated[float, Field(gt=0)] = 5.0
    wall_s: Annotated[float, Field(gt=0)] = 10.0
    memory_mib: Annotated[int, Field(ge=64)] = 1024
    after_think: bool = False
    type: Literal["unit_tests"] = "unit_tests"
    needs_answer: ClassVar[bool] = False

    def __call__(self, problem: Problem, completion: str) -> Verdict:
        """Grade one completion; `ValueError` for a problem without tests."""
        told = problem.column(self.tests)
        tests = [told] if isinstance(told, str) else list(told or ())
        if not tests or not all(isinstance(test, str) and test.strip() for test in tests):
            raise ValueError(f"{problem.name} has no tests in a column '{self.tests}'")
        source = fenced(answer_part(completion, self.after_think), "python")
        limits = Limits(self.cpu_s, self.wall_s, self.memory_mib << 20)
        unreadable, *failures = run_tests(source, tests, limits)
        if unreadable is not None:
            return Verdict(0.0, False, False, unreadable)
        passed = failures.count(None)
        right = passed == len(tests)
        share = passed / len(tests) if self.reward == "share" else float(right)
        return Verdict(share, right, True, None if right else _told(tests, failures))

    def many(self, attempts: Sequence[Attempt]) -> list[Verdict | None]:
        """Grade many attempts, several at a time."""
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return list(pool.map(lambda one: self(one.problem, one.completion), attempts))


def _told(tests: Sequence[str], failures: Sequence[str | None]) -> str:
    """The first failure, and how many tests fail."""
    number, why = next((i, why) for i, why in enumerate(failures) if why is not None)
    failed = len(failures) - failures.count(None)
    return f"{failed} of {len(tests)} tests fail; the first is\n{tests[number].strip()}\n{why}"
