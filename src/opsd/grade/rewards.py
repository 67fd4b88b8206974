"""Reward functions written for TRL as a verifier, called as `GRPOTrainer` calls them."""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, PlainSerializer, model_validator

from opsd.grade.judge import failure
from opsd.parts import imported, part, tag
from opsd.types import COLUMNS, Attempt, Problem, UserError, Verdict

_OURS = ("prompt", "completion", "completion_ids")
"""Columns that are passed under other names."""

LogMetric = Callable[[str, float], None]


def _ignored(*_: Any) -> None:
    """Discards what a reward function logs."""


def _callable(given: Any) -> Any:
    found = imported(given) if isinstance(given, str) else given
    if not callable(found) or isinstance(found, type):
        raise ValueError(
            f"{given!r} is not a function: to use a reward model, write a function that calls it"
        )
    return given


RewardFunc = Annotated[
    Any,
    AfterValidator(_callable),
    PlainSerializer(lambda func: func if isinstance(func, str) else tag(func)),
]
"""A function, or its name as `package.module:function`."""


@part
class RewardFuncs:
    """Reward functions as TRL's `GRPOTrainer` takes them (1.16): `(prompts, completions,
    completion_ids, **columns) -> list[float | None]`, called with all attempts at once.

    `columns` are those of the dataset's rows, `trainer_state` (None outside training), `log_metric`
    and `log_extra` (which discards its values here). The reward is the weighted sum of the
    functions' values, with `weights` (by default 1 each), without functions that return None; if
    all do, there is no verdict. A function may be `async`. Prompts and completions are messages if
    `conversational` is true, by default if the dataset's prompts are; else they are texts.

    TRL does not distinguish right from wrong. Here a completion is right if its reward is at least
    `correct_at`, by default the sum of the positive weights of the functions that have judged it:
    if these return values from 0 to 1, each must have returned 1.
    """

    funcs: Annotated[tuple[RewardFunc, ...], Field(min_length=1)]
    weights: tuple[float, ...] = ()
    correct_at: float | None = None
    conversational: bool | None = None
    type: Literal["reward_funcs"] = "reward_funcs"

    @model_validator(mode="before")
    @classmethod
    def _one_is_a_list_of_one(cls, given: Any) -> Any:
        content = getattr(given, "kwargs", given)
        if isinstance(content, Mapping) and isinstance(content.get("funcs"), str):
            return {**content, "funcs": [content["funcs"]]}
        return given

    @model_validator(mode="after")
    def _a_weight_for_each(self) -> RewardFuncs:
        if self.weights and len(self.weights) != len(self.funcs):
            raise ValueError(f"{len(self.weights)} weights for {len(self.funcs)} functions")
        return self

    def __call__(self, problem: Problem, completion: str) -> Verdict | None:
        return self.many([Attempt(problem, completion)])[0]

    def many(self, attempts: Sequence[Attempt]) -> list[Verdict | None]:
        """Verdicts on attempts, outside a training run."""
        return self.begin(lambda: None, _ignored).many(attempts)

    def begin(self, trainer_state: Callable[[], Any], log_metric: LogMetric) -> RewardsAtWork:
        """The functions at work in a training run."""
        return RewardsAtWork(self, trainer_state, log_metric)


@dataclass(frozen=True)
class RewardsAtWork:
    """Reward functions together with the state of a run."""

    about: RewardFuncs
    trainer_state: Callable[[], Any]
    log_metric: LogMetric

    def __call__(self, problem: Problem, completion: str) -> Verdict | None:
        return self.many([Attempt(problem, completion)])[0]

    def many(self, attempts: Sequence[Attempt]) -> list[Verdict | None]:
        """Verdicts on attempts; every function is called once. Raises UserError for a function that
        fails, or does not return a number or None for each attempt."""
        attempts = [Attempt(*attempt) for attempt in attempts]
        funcs = [imported(f) if isinstance(f, str) else f for f in self.about.funcs]
        given = self._given(attempts)
        columns = [
            _checked(func, attempts, returned)
            for func, returned in zip(funcs, _called(funcs, given, attempts), strict=True)
        ]
        for func, rewards in zip(funcs, columns, strict=True):
            for reward in rewards:
                if reward is not None:
                    self.log_metric(f"rewards/{called(func)}/mean", reward)
        return [self._verdict(rewards) for rewards in zip(*columns, strict=True)]

    def _given(self, attempts: Sequence[Attempt]) -> dict[str, Any]:
        prompts: list[Any] = [attempt.problem.prompt for attempt in attempts]
        completions: list[Any] = [attempt.completion for attempt in attempts]
        talking = self.about.conversational
        if talking is None:
            talking = not all(isinstance(prompt, str) for prompt in prompts)
        if talking:
            prompts = [
                [{"role": "user", "content": p}] if isinstance(p, str) else [dict(m) for m in p]
                for p in prompts
            ]
            completions = [[{"role": "assistant", "content": text}] for text in completions]
        rows = [columns(attempt.problem) for attempt in attempts]
        names = dict.fromkeys(name for row in rows for name in row)
        return {
            **{name: [row.get(name) for row in rows] for name in names},
            "prompts": prompts,
            "completions": completions,
            "completion_ids": [list(attempt.completion_ids) for attempt in attempts],
            "trainer_state": self.trainer_state(),
            "log_extra": _ignored,
            "log_metric": self.log_metric,
        }

    def _verdict(self, rewards: Sequence[float | None]) -> Verdict | None:
        weights = self.about.weights or (1.0,) * len(rewards)
        known = [(w, r) for w, r in zip(weights, rewards, strict=True) if r is not None]
        if not known:
            return None
        reward = sum(weight * r for weight, r in known)
        least = self.about.correct_at
        if least is None:
            least = sum(max(weight, 0.0) for weight, _ in known)
        return Verdict(reward, reward >= least - 1e-9, True)


def columns(problem: Problem) -> dict[str, Any]:
    """The columns of a problem that a reward function gets: those of its row, and the problem's own
    fields, such as `answer`, if the row has no column with that name."""
    known = {"answer": problem.answer, "language": problem.language, **problem.privileged}
    aside = {name: x for name, x in problem.metadata.items() if name != COLUMNS}
    row = {**aside, **known, **problem.metadata.get(COLUMNS, {})}
    return {name: x for name, x in row.items() if name not in _OURS}


def called(func: Any) -> str:
    """A function's name, under which TRL logs it; for an object, the name of its class."""
    inner = func.func if isinstance(func, partial) else func
    return getattr(inner, "__name__", None) or type(inner).__name__


def _called(
    funcs: Sequence[Any], given: Mapping[str, Any], attempts: Sequence[Attempt]
) -> list[Any]:
    """The functions' return values; async functions run concurrently."""

    async def awaited() -> list[Any]:
        return await asyncio.gather(*(r for r in returned if inspect.isawaitable(r)))

    returned = []
    for func in funcs:
        try:
            returned.append(func(**given))
        except Exception as error:  # whatever a user's function raises
            raise _failed(func, attempts, error) from error
    if any(inspect.isawaitable(r) for r in returned):
        try:
            with ThreadPoolExecutor(1) as apart:  # this thread may have a loop of its own
                later = iter(apart.submit(lambda: asyncio.run(awaited())).result())
        except Exception as error:
            raise _failed("that is async", attempts, error) from error
        returned = [next(later) if inspect.isawaitable(r) else r for r in returned]
    return returned


def _failed(func: Any, attempts: Sequence[Attempt], error: Exception) -> UserError:
    name = func if isinstance(func, str) else called(func)
    told = f"{len(attempts)} completions (the first: {attempts[0].problem.name})"
    return UserError(
        f"the reward function {name} failed on {told}: {failure(error)}; fix it, or return None for"
        " a completion that it does not judge"
    )


def _checked(func: Any, attempts: Sequence[Attempt], returned: Any) -> list[float | None]:
    """A function's rewards as numbers. UserError if it does not return a list with one number (or
    None) per attempt."""
    name = f"the reward function {called(func)}"
    try:
        rewards = list(returned)
    except TypeError:
        rewards = None
    if rewards is None or isinstance(returned, str | Mapping):
        raise UserError(f"{name} returned {returned!r:.80}, not a list of numbers (or None)")
    if len(rewards) != len(attempts):
        raise UserError(
            f"{name} returned {len(rewards)} rewards for {len(attempts)} completions (the first:"
            f" {attempts[0].problem.name}): it must return one number, or None, for each"
        )
    return [
        _number(name, attempt.problem, reward)
        for attempt, reward in zip(attempts, rewards, strict=True)
    ]


def _number(name: str, problem: Problem, reward: Any) -> float | None:
    if reward is None:
        return None
    try:
        number = math.nan if isinstance(reward, str) else float(reward)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise UserError(
            f"{name} gave {reward!r:.80} for {problem.name}: a reward must be a finite number, or"
            " None for a completion that it does not judge"
        )
    return number
