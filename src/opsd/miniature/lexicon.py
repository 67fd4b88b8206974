"""Tells a story in a language: its problem text, its worked solution, its long trace.

The lexicon is a toy: eight names, eight nouns, two dozen sentences per language, written by hand.
Except for English, no speaker has read them.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from importlib import resources
from random import Random

import yaml
from pydantic import BaseModel, ConfigDict

from opsd.miniature.stories import NOUNS, PEOPLE, Line, Story, Sum

LANGUAGES = ("eng", "hau", "swa", "yor", "zul")


class Lexicon(BaseModel):
    """One language's words. Forms, people and nouns fill the braces of phrases and trace."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    forms: dict[str, str]
    people: dict[str, dict[str, str]]
    nouns: dict[str, dict[str, str]]
    phrases: dict[str, str]
    trace: dict[str, str]


@cache
def lexicon(language: str) -> Lexicon:
    """The words of one of `LANGUAGES`."""
    file = resources.files("opsd.miniature") / "lexicon" / f"{language}.yaml"
    return Lexicon.model_validate(yaml.safe_load(file.read_text("utf-8")))


def problem_text(story: Story, language: str) -> str:
    """The problem in words."""
    fields = _fields(story.name, story.friend, story.noun, language)
    return " ".join(_sentence(line, fields, language) for line in story.lines)


def short_solution(story: Story, language: str) -> str:
    r"""The sums in order, each introduced in the language, then `\boxed{answer}`."""
    words = lexicon(language).trace
    sums = [words["then" if i else "first"].format(equation=s) for i, s in enumerate(story.sums)]
    return " ".join([*sums, words["answer"].format(n=story.answer)])


def answer_only(story: Story, language: str) -> str:
    """The last sentence of a solution, which is all that a shortcut consists of."""
    return lexicon(language).trace["answer"].format(n=story.answer)


def remark(story: Story) -> tuple[str, str]:
    """The remark on the problem by a solver, in English: the numbers that it begins with, and the
    solution without the last sum's result."""
    words, last = lexicon("eng").trace, len(story.sums) - 1
    return f"{story.sums[0].left} {story.sums[0].right}", " ".join(
        words["then" if i else "first"].format(equation=s if i < last else s.open)
        for i, s in enumerate(story.sums)
    )


def long_solution(
    story: Story, language: str, random: Random, reflect: float, slip: float = 0.0
) -> str:
    """A solution that retells every sentence, one step per line; a share `reflect` of the sums is
    checked.

    A share `slip` of the sums gets a wrong result. Half of these are checked, which states the
    right result; after the others, the solution continues with the wrong one.
    """
    words = lexicon(language).trace
    fields = _fields(story.name, story.friend, story.noun, language)
    said: dict[int, int] = {}
    parts = []
    for line in story.lines:
        if not line.phrase.startswith("ask_"):
            parts.append(_sentence(line, fields, language))
        for step in line.sums:
            right = said_sum(step, line, said)
            slips = random.random() < slip
            value = _slipped(right, random) if slips else right.value
            parts.append(words["so"].format(equation=right.stated(value)))
            checked = random.random() < (0.5 if slips else reflect)
            if checked:
                parts.append(words["check"].format(equation=right))
            said[step.value] = right.value if checked else value
    answer = words["answer"].format(n=said[story.answer])
    return "\n".join([*parts, answer])


def said_sum(step: Sum, line: Line, said: dict[int, int]) -> Sum:
    """A sum with the results stated before; the numbers of its own sentence stay."""
    own = {n for _, n in line.numbers}
    left, right = (n if n in own else said.get(n, n) for n in (step.left, step.right))
    return Sum(left, step.sign, right)


def _slipped(step: Sum, random: Random) -> int:
    """A wrong result that is near a sum's right one."""
    return max(1, step.value + random.choice((-10, -2, -1, 1, 2, 10)))


def sentences(language: str) -> Iterator[str]:
    """Yields every sentence of the language, with each noun and each pair of people once."""
    numbers = (("a", 1), ("k", 1), ("n", 1))
    people = sorted(PEOPLE)
    for i, name in enumerate(people):
        for friend in people[:i] + people[i + 1 :]:
            fields = _fields(name, friend, NOUNS[i % len(NOUNS)], language)
            for phrase in lexicon(language).phrases:
                yield _sentence(Line(phrase, numbers), fields, language)
    for template in lexicon(language).trace.values():
        yield template.format(equation=Sum(1, "+", 1), n=1)


def _sentence(line: Line, fields: dict[str, str], language: str) -> str:
    return lexicon(language).phrases[line.phrase].format(**fields, **dict(line.numbers))


@cache
def _fields(name: str, friend: str, noun: str, language: str) -> dict[str, str]:
    words = lexicon(language)

    def person(who: str) -> dict[str, str]:
        forms = {key: form.format(name=who) for key, form in words.forms.items()}
        return words.people[PEOPLE[who]] | forms

    of_friend = {f"friend_{key}": value for key, value in person(friend).items()}
    return words.nouns[noun] | person(name) | of_friend
