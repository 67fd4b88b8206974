"""Problems that are in several suites, or that a model was trained on: as declared for suites and
datasets, and as found in a run's own prompts."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from opsd.data.rows import SUFFIXES
from opsd.runs.json_files import mapping, rows, sequence
from opsd.suites.files import Overlap, Suite
from opsd.types import Problem

SHORTEST = 24
"""How many letters and digits a problem's text needs to be searched for: shorter texts occur in
others by chance."""

_KEPT = re.compile(r"[\W_]+")


def shared(suites: Iterable[Suite]) -> list[str]:
    """A line for each pair of suites that share problems: their scores are not independent
    evidence."""
    return [
        f"{one.name} and {other.name} share problems and are not independent evidence: {told.what}"
        for one, other in combinations(suites, 2)
        for told in _overlaps(one, other)
    ]


def _overlaps(one: Suite, other: Suite) -> list[Overlap]:
    """The overlaps that either of two suites declares with the other."""
    return [
        told
        for suite, against in ((one, other), (other, one))
        for told in suite.overlaps
        if told.suite == against.name
    ]


def named(suite: Suite, data: Mapping[str, Any], known: Mapping[str, Suite]) -> list[str]:
    """Why training data (`source`, `split` of a recipe's `data`) may contain the suite's problems,
    a line per reason: it is the suite itself, or a suite or dataset that shares problems with
    it."""
    source, split = str(data.get("source", "")), str(data.get("split") or "train")
    told = [f"it is {suite.name}"] if _is(suite, source, split) else []
    for other in known.values():
        if other.name != suite.name and _is(other, source, split):
            told += [overlap.what for overlap in _overlaps(suite, other)]
    for overlap in suite.overlaps:
        if overlap.source == source and overlap.split in (None, split):
            told.append(overlap.what)
    return [f"training data {source}, {split}: {reason}" for reason in dict.fromkeys(told)]


def _is(suite: Suite, source: str, split: str) -> bool:
    """Whether a dataset, or a file judged by its name, belongs to a suite."""
    if source == suite.source:
        return Path(source).suffix in SUFFIXES or split in (suite.split, *suite.splits)
    folder = suite.folder or suite.name
    return any(_fits(f"{folder}/{file}", source) for file in suite.files)


def _fits(layout: str, source: str) -> bool:
    """Whether a file's path fits a layout; `{language}` and `{split}` match any name."""
    pattern = re.sub(r"\\\{\w+\\\}", r"[^/]+", re.escape(layout))
    return re.search(rf"(?:^|/){pattern}$", Path(source).as_posix()) is not None


def trained_on(problems: Sequence[Problem], run: Path) -> dict[str, int] | None:
    """How many problems of each language occur in the prompts that a run trained with, the
    student's or a teacher's. Only letters and digits are compared. None for a folder without
    prompts."""
    files = sorted(run.glob("rollouts/*.jsonl"))
    if not files:
        return None
    by_start: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for number, problem in enumerate(problems):
        text = bare(problem.text)
        if len(text) >= SHORTEST:
            by_start[text[:SHORTEST]].append((text, number))
    found: set[int] = set()
    for prompt in {bare(text) for file in files for text in _prompts(file)}:
        for start in range(len(prompt) - SHORTEST + 1):
            for text, number in by_start.get(prompt[start : start + SHORTEST], ()):
                if prompt.startswith(text, start):
                    found.add(number)
    counts = Counter(problems[number].language for number in found)
    return {problem.language: counts[problem.language] for problem in problems}


def _prompts(file: Path) -> Iterator[str]:
    for row in rows(file):
        yield str(row.get("prompt", ""))
        yield from (str(mapping(view).get("prompt", "")) for view in sequence(row.get("views")))


def bare(text: str) -> str:
    r"""The letters and digits of a text, case folded.

    >>> bare("Is $x_1 \\ge 2$?") == bare("is x1 \\ge\n2")
    True
    """
    return _KEPT.sub("", unicodedata.normalize("NFKC", text).casefold())
