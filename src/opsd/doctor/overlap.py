"""Training problems that are in a suite, word for word or nearly."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from opsd.doctor.findings import Finding, plain, where
from opsd.grade.ngrams import ngrams
from opsd.suites.loading import SUITES, NoCopy, read
from opsd.types import Problem

N = 8
"""Words in a shared sequence. Of GSM8K's training problems 0.1 % share half of a test problem's
sequences of eight words with it."""
SHARE = 0.5
"""The share of a suite problem's sequences of `N` words from which a problem counts as its copy."""

_WORD = re.compile(
    # Scripts without spaces between words: a character is a word.
    r"[\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]|[^\W_]+"
)


def at_hand(folder: Path) -> dict[str, list[Problem]]:
    """The problems of every suite that has files in a folder, by the suite's name."""
    found = {}
    for name, suite in SUITES.items():
        if not suite.files:
            continue
        try:
            found[name] = read(suite, (), folder)
        except NoCopy:
            continue
    return found


def overlaps(problems: Sequence[Problem], suites: Mapping[str, Sequence[Problem]]) -> list[Finding]:
    """A finding for each suite: how many of the problems share `SHARE` of a suite problem's
    sequences of `N` words with it (or all its words, if it has fewer than `N`)."""
    index: dict[tuple[str, ...], list[int]] = defaultdict(list)
    known: list[tuple[str, Problem, int]] = []
    for name, own in suites.items():
        for problem in own:
            grams = set(_grams(problem.text))
            for gram in grams:
                index[gram].append(len(known))
            known.append((name, problem, len(grams)))
    made = {
        name: Finding(
            f"share half of their words, or more, with a problem of {name}",
            "error",
            f"leave them out, or do not evaluate on {name}",
            len(problems),
        )
        for name in suites
    }
    for problem in problems:
        shared = Counter(i for gram in set(_grams(problem.text)) for i in index.get(gram, ()))
        nearest: dict[str, tuple[float, Problem]] = {}
        for i, count in shared.items():
            name, other, size = known[i]
            share = count / size
            if share >= SHARE and share > nearest.get(name, (0.0,))[0]:
                nearest[name] = share, other
        for name, (share, other) in nearest.items():
            made[name].add(problem, f"{share:.0%} of {where(other)}: {problem.text}")
    return [finding for finding in made.values() if finding.rows]


def _grams(text: str) -> list[tuple[str, ...]]:
    words = _WORD.findall(unicodedata.normalize("NFKC", text).casefold())
    # In a short formula the signs count, too.
    return ngrams(words, N) or ([tuple(plain(text).split())] if len(words) > 2 else [])
