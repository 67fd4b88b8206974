"""The worlds' problems: parallel in all languages, with splits that do not leak.

No test or dev problem shares both its template and its numbers with a problem of another split.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import islice
from random import Random

from opsd.miniature.lexicon import (
    LANGUAGES,
    answer_only,
    long_solution,
    problem_text,
    remark,
    short_solution,
)
from opsd.miniature.rules import advice, rubric
from opsd.miniature.stories import LARGEST, SPLITS, Story, stories
from opsd.types import Problem, UserError

LOW_RESOURCE = tuple(code for code in LANGUAGES if code != "eng")
SIZES = {"pretraining": 5_000, "train": 600, "dev": 120, "test": 300}

HORIZON = {
    "miniature": 48,
    "miniature-long": 160,
    "miniature-diffusion": 32,
    "miniature-pair": 48,
}
"""Maximum tokens of a completion, by world: a little more than its longest trace."""


@dataclass(frozen=True)
class World:
    """How one world differs from the others: the numbers of sums (`steps` to draw from) with
    results up to `largest`, its traces, the languages that its models have read, whether they are
    masked diffusion models, and whether they write remarks for each other."""

    steps: tuple[int, ...]
    largest: int = LARGEST
    long: bool = False
    reflect: float = 0.0
    languages: tuple[str, ...] = LANGUAGES
    diffusion: bool = False
    peers: bool = False


WORLDS = {
    "miniature": World(steps=(2, 2, 2, 3, 3, 4)),
    "miniature-long": World(steps=(3, 4), long=True, reflect=0.3),
    "miniature-diffusion": World(steps=(2, 2, 3), largest=30, languages=("eng",), diffusion=True),
    "miniature-pair": World(steps=(2, 2, 2, 3, 3, 4), languages=("swa", "yor"), peers=True),
}


def problems(world: str, split: str, language: str, n: int | None = None) -> list[Problem]:
    """The first `n` problems of a split (all by default), in one language.

    Problem i is the same in every language. `privileged` contains the English worked solution and,
    in other languages, the English text; in English in the long world, also a rubric and advice.
    `metadata["trace"]` is a full solution in the problem's own language, as a model of this world
    would write it; in a world of peers, `metadata["remark"]` is the concept and the feedback that a
    peer would write about it.
    """
    if world not in WORLDS or split not in SPLITS or language not in LANGUAGES:
        raise UserError(
            f"no problems for world '{world}', split '{split}', language '{language}'; worlds:"
            f" {', '.join(WORLDS)}; splits: {', '.join(SPLITS)}; languages: {', '.join(LANGUAGES)}"
        )
    size = SIZES[split]
    if n is not None and not 0 <= n <= size:
        raise UserError(f"split '{split}' of world '{world}' has {size} problems, not {n}")
    told = _stories(world, split)[: size if n is None else n]
    return [problem(world, language, story) for story in told]


def problem(world: str, language: str, story: Story) -> Problem:
    """A story as a problem of a world, in one language."""
    privileged = {"solution": short_solution(story, "eng")}
    if language != "eng":
        privileged["translation"] = problem_text(story, "eng")
    elif WORLDS[world].long:
        privileged |= {"rubric": rubric(story), "demonstration": demonstration(story)}
        privileged["skills"], privileged["mistakes"] = advice(story)
    return Problem(
        prompt=problem_text(story, language),
        answer=str(story.answer),
        language=language,
        privileged=privileged,
        metadata={
            "world": world,
            "template": story.template,
            "numbers": list(story.numbers),
            "tags": sorted({line.phrase for line in story.lines}),
            "trace": trace(world, language, story),
            **({"remark": remark(story)} if WORLDS[world].peers else {}),
        },
    )


def trace(world: str, language: str, story: Story, shortcut: bool = False) -> str:
    """The solution that a model of this world writes; `shortcut` gives the answer at once."""
    if shortcut:
        return answer_only(story, language)
    settings = WORLDS[world]
    if not settings.long:
        return short_solution(story, language)
    random = Random(f"{story.template} {story.numbers} {story.name} {language}")
    return long_solution(story, language, random, settings.reflect)


def demonstration(story: Story) -> str:
    """A second long trace of a story: the same steps, but other ones are checked."""
    return long_solution(story, "eng", Random(f"again {story.numbers}"), 0.3)


@cache
def _stories(world: str, split: str) -> tuple[Story, ...]:
    settings = WORLDS[world]
    return tuple(islice(stories(world, split, settings.steps, settings.largest), SIZES[split]))
