"""Number of samples, budgets and sampling settings: the user's, else those that the suite's
published numbers were measured with, else the defaults."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from opsd.prompts.contexts import StudentPrompt
from opsd.rollout.engine import Sampling
from opsd.suites.files import Setting
from opsd.types import UserError

SAMPLES, BUDGETS, TEMPERATURE, TOP_P = 4, (1024,), 1.0, 0.95


@dataclass(frozen=True)
class Settings:
    """Samples per problem, budgets in tokens, sampling. None and empty mean: not given."""

    samples: int | None = None
    budgets: Sequence[int] = ()
    temperature: float | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UserError(f"--top-p {self.top_p:g}: write a number above 0, at most 1")
        if self.temperature is not None and not 0 <= self.temperature < math.inf:
            raise UserError(f"--temperature {self.temperature:g}: write a number, 0 or above")
        counts = (("--samples", self.samples), *(("--budget", budget) for budget in self.budgets))
        for option, count in counts:
            if count is not None and count < 1:
                raise UserError(f"{option} {count}: write a whole number, 1 or above")

    def over(self, setting: Setting | None) -> Settings:
        """These settings; what they leave open is filled from a suite's setting, then from the
        defaults."""
        said = [self, *([setting] if setting else []), _USUAL]
        return Settings(
            samples=next(s.samples for s in said if s.samples is not None),
            budgets=next(tuple(s.budgets) for s in said if s.budgets),
            temperature=next(s.temperature for s in said if s.temperature is not None),
            top_p=next(s.top_p for s in said if s.top_p is not None),
        )

    @property
    def sampling(self) -> Sampling:
        assert self.temperature is not None and self.top_p is not None
        return Sampling(temperature=self.temperature, top_p=self.top_p)


_USUAL = Settings(SAMPLES, BUDGETS, TEMPERATURE, TOP_P)


def deviations(settings: Settings, prompt: StudentPrompt, setting: Setting) -> list[str]:
    """What differs from the setting of published numbers, in words. A subset of its budgets is not
    a deviation."""
    return list(_deviations(settings, prompt, setting))


def _deviations(settings: Settings, prompt: StudentPrompt, setting: Setting) -> Iterator[str]:
    for name, own, published in (
        ("samples", settings.samples, setting.samples),
        ("temperature", settings.temperature, setting.temperature),
        ("top-p", settings.top_p, setting.top_p),
    ):
        if published is not None and own != published:
            yield f"{name} {own} instead of {published}"
    if setting.budgets and not set(settings.budgets) <= set(setting.budgets):
        own, published = (_tokens(budgets) for budgets in (settings.budgets, setting.budgets))
        yield f"budget {own} instead of {published}"
    thinking = prompt.template_options.get("enable_thinking")
    if None not in (thinking, setting.thinking) and thinking != setting.thinking:
        own, published = ("on" if on else "off" for on in (thinking, setting.thinking))
        yield f"thinking {own} instead of {published}"


def _tokens(budgets: Sequence[int]) -> str:
    return " and ".join(f"{budget:,}" for budget in budgets)
