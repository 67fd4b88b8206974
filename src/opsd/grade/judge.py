"""What a verifier is, and the one place that calls verifiers: a return value that is not a verdict
is an error that names the problem."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from opsd.parts import tag
from opsd.types import Attempt, Problem, RunFailed, UserError, Verdict

Judge = Callable[[Sequence[Attempt]], list[Verdict | None]]
"""Attempts -> a verdict on each, in their order; None for an attempt that cannot be judged."""


class Verifier(Protocol):
    """Decides whether a completion is right, and what reward it gets.

    A verifier only needs to be callable. It may also define:

    - `many(attempts)`: verdicts on a step's `Attempt`s at once, in their order, instead of a call
      for each.
    - `said(problem, completion)`: the answer that a completion states, or None; `maj@k` counts it.
    - `needs_answer`: whether it compares with the problems' answers, so that each needs one.
    - `begin(trainer_state, log_metric)`: returns the verifier to use in a training run instead;
      `trainer_state()` is the Trainer's current state, `log_metric(name, value)` logs a mean.
    """

    def __call__(self, problem: Problem, completion: str) -> Verdict | None:
        """The verdict on one completion; None if there is none."""
        ...


def judge(verifier: Any, attempts: Sequence[Attempt]) -> list[Verdict | None]:
    """A verifier's verdicts on attempts, in their order.

    Raises UserError, one line, if the verifier fails, returns something that is not a verdict, or
    does not return one per attempt.
    """
    if not attempts:
        return []
    many = getattr(verifier, "many", None)
    if many is None:
        verdicts = [_one(verifier, attempt) for attempt in attempts]
    else:
        verdicts = _asked(lambda: many(attempts), verifier, attempts)
        if not isinstance(verdicts, list | tuple) or len(verdicts) != len(attempts):
            said = len(verdicts) if isinstance(verdicts, list | tuple) else _shown(verdicts)
            raise UserError(
                f"{named(verifier)} gave {said} for {_of(attempts)}: `many` must return a list with"
                " one verdict per attempt, in their order"
            )
    for attempt, verdict in zip(attempts, verdicts, strict=True):
        _refuse(verifier, attempt.problem, verdict)
    return list(verdicts)


def named(verifier: Any) -> str:
    """The name of a verifier in messages."""
    return f"the verifier {tag(verifier)}"


def _one(verifier: Any, attempt: Attempt) -> Any:
    return _asked(lambda: verifier(attempt.problem, attempt.completion), verifier, [attempt])


def _asked(ask: Callable[[], Any], verifier: Any, attempts: Sequence[Attempt]) -> Any:
    try:
        return ask()
    except (UserError, RunFailed):
        raise
    except Exception as error:  # whatever a user's verifier raises
        raise UserError(
            f"{named(verifier)} failed on {_of(attempts)}: {failure(error)}; fix it, or return None"
            " for no verdict"
        ) from error


def failure(error: Exception) -> str:
    """An error in one line: its text, with its type unless it is a ValueError with a message."""
    kind = type(error).__name__
    return str(error) if isinstance(error, ValueError) and str(error) else f"{kind}: {error}"


def _of(attempts: Sequence[Attempt]) -> str:
    first = attempts[0].problem.name
    return first if len(attempts) == 1 else f"{len(attempts)} completions (the first: {first})"


def _refuse(verifier: Any, problem: Problem, verdict: Any) -> None:
    """Raises UserError for a return value that a verifier must not give."""
    if verdict is None:
        return
    if not isinstance(verdict, Verdict):
        said, must = _shown(verdict), "it must return a Verdict, or None for no verdict"
    elif not isinstance(verdict.reward, int | float) or not math.isfinite(verdict.reward):
        said, must = f"the reward {_shown(verdict.reward)}", "a reward must be a finite number"
    elif not isinstance(verdict.correct, bool):
        said, must = f"`correct` as {_shown(verdict.correct)}", "it must be a bool: bool(...)"
    elif not isinstance(verdict.format_ok, bool):
        said, must = f"`format_ok` as {_shown(verdict.format_ok)}", "it must be a bool: bool(...)"
    elif not isinstance(verdict.feedback, str | None):
        said, must = f"the feedback {_shown(verdict.feedback)}", "feedback must be a text, or None"
    else:
        return
    raise UserError(f"{named(verifier)} gave {said} for {problem.name}: {must}")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
