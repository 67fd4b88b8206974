"""Rules for this world: they replace the language models that write critiques, rubrics and advice.
The long world's models were pre-trained to read their texts."""

from __future__ import annotations

from functools import cache
from random import Random

from opsd.authors.skills import Bank, read_bank
from opsd.miniature.stories import Line, Story, Sum
from opsd.types import Problem

_WRONG_SIGN = {"+": "-", "-": "+", "x": "+"}


def rubric(story: Story) -> str:
    """A rubric with a criterion per sum, which contains its sign and the problem's own numbers, but
    no result."""
    essential = [_operation(s, line) for line in story.lines for s in line.sums]
    first = story.sums[0]
    lines = [f"Essential: {operation}." for operation in essential]
    avoided = f"Avoid: {_WRONG_SIGN[first.sign]} {first.right}."
    return "\n".join([*lines, "Important: check.", avoided])


def critic(problem: Problem, completion: str, correct: bool | None) -> str:
    """A critic's answer: the case first, then a corrected English rollout. Its lines up to the
    first wrong one are kept word for word; from there on it is the world's own trace."""
    expected = [x for x in str(problem.metadata["trace"]).splitlines() if "check" not in x]
    kept: list[str] = []
    done = 0
    given = completion.splitlines()
    for line in given:
        if done < len(expected) and line == expected[done]:
            done += 1
        elif not (kept and line == _check(kept[-1])):
            break
        kept.append(line)
    whole = "A" if done == len(expected) else "C"
    case = whole if len(kept) == len(given) else "D"
    return f"CASE: {case}\n" + "\n".join([*kept, *expected[done:]])


def advice(story: Story) -> tuple[str, str]:
    """One piece of advice and one warning that fit the story, as a retrieved pair."""
    tags = {line.phrase for line in story.lines}
    random = Random(f"advice {story.template} {story.numbers}")
    bank = skill_bank()
    chosen = [
        random.choice([item.text for item in items if tags & set(item.tags)])
        for items in (bank.skills, bank.mistakes)
    ]
    return chosen[0], chosen[1]


@cache
def skill_bank() -> Bank:
    """The world's own skills and mistakes, tagged with the phrases that they are about."""
    return read_bank("opsd.miniature:skills.yaml")


def _operation(step: Sum, line: Line) -> str:
    own = {n for _, n in line.numbers}
    left = f"{step.left} " if step.left in own else ""
    right = f" {step.right}" if step.right in own else ""
    return f"{left}{step.sign}{right}"


def _check(line: str) -> str:
    return f"Wait, check {line.removeprefix('So ').removesuffix('.')}, ok."
