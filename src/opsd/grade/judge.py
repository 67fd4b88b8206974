"""What a verifier is, and the one place that asks one: whatever it says that is no verdict is an
error that names the problem."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from opsd.parts import tag
from opsd.types import Attempt, Problem, RunFailed, UserError, Verdict

Judge = Callable[[Sequence[Attempt]], list[Verdict | None]]
"""Attempts -> a verdict on each, in their order; None of what cannot be judged."""


class Verifier(Protocol):
    """Says whether a completion is right, and what it is worth.

    That it can be called is all that one needs. What else it may have:

    - `many(attempts)`: verdicts on a step's `Attempt`s at once, in their order, in place of a call
      for each.
    - `said(problem, completion)`: the answer that a completion states, or None; `maj@k` counts it.
    - `needs_answer`: whether it compares with the problems' own answers, which each then needs.
    - `begin(trainer_state, log_metric)`: the verifier at work in a training run, in its place;
      `trainer_state()` is the Trainer's state by now, `log_metric(name, value)` logs a mean.
    """

    def __call__(self, problem: Problem, completion: str) -> Verdict | None:
        """The verdict on one completion; None where there is none."""
        ...


def judge(verifier: Any, attempts: Sequence[Attempt]) -> list[Verdict | None]:
    """What a verifier says of attempts, in their order.

    Raises UserError, one line, where it fails, or says what is no verdict or not one of each.
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
                f"{named(verifier)} gave {said} for {_of(attempts)}: `many` returns a list of as"
                " many verdicts as there are attempts, in their order"
            )
    for attempt, verdict in zip(attempts, verdicts, strict=True):
        _refuse(verifier, attempt.problem, verdict)
    return list(verdicts)


def named(verifier: Any) -> str:
    """How messages call a verifier."""
    return f"the verifier {tag(verifier)}"


def _one(verifier: Any, attempt: Attempt) -> Any:
    return _asked(lambda: verifier(attempt.problem, attempt.completion), verifier, [attempt])


def _asked(ask: Callable[[], Any], verifier: Any, attempts: Sequence[Attempt]) -> Any:
    try:
        return ask()
    except (UserError, RunFailed):
        raise
    except Exception as error:  # whatever somebody's verifier raises
        raise UserError(
            f"{named(verifier)} failed on {_of(attempts)}: {failure(error)}; mend it, or return"
            " None for no verdict"
        ) from error


def failure(error: Exception) -> str:
    """An error in a line: its text, and its kind where that is no message for people."""
    kind = type(error).__name__
    return str(error) if isinstance(error, ValueError) and str(error) else f"{kind}: {error}"


def _of(attempts: Sequence[Attempt]) -> str:
    first = attempts[0].problem.name
    return first if len(attempts) == 1 else f"{len(attempts)} completions (the first: {first})"


def _refuse(verifier: Any, problem: Problem, verdict: Any) -> None:
    """Refuses what a verifier must not say."""
    if verdict is None:
        return
    if not isinstance(verdict, Verdict):
        said, must = _shown(verdict), "it returns a Verdict, or None for no verdict"
    elif not isinstance(verdict.reward, int | float) or not math.isfinite(verdict.reward):
        said, must = f"the reward {_shown(verdict.reward)}", "a reward is a finite number"
    elif not isinstance(verdict.correct, bool):
        said, must = f"`correct` as {_shown(verdict.correct)}", "it is True or False: bool(...)"
    elif not isinstance(verdict.format_ok, bool):
        said, must = f"`format_ok` as {_shown(verdict.format_ok)}", "it is True or False: bool(...)"
    elif not isinstance(verdict.feedback, str | None):
        said, must = f"the feedback {_shown(verdict.feedback)}", "feedback is a text, or None"
    else:
        return
    raise UserError(f"{named(verifier)} gave {said} for {problem.name}: {must}")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
