"""The check of a dataset: it reads rows as training does, and finds what is wrong with them, how
long they are, and which of them are also in a suite."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from opsd.data.filters import DataReport
from opsd.data.problems import Data, load_problems
from opsd.data.stream import ProblemStream
from opsd.doctor.findings import Finding, findings
from opsd.doctor.overlap import at_hand, overlaps
from opsd.languages.registry import language
from opsd.types import Problem, UserError

COUNTED = 500
"""How many problems of each language have their tokens counted."""


def check(data: Data, model: str | None = None, folder: Path | None = None) -> dict[str, Any]:
    """The results of the check, as plain values: `problems`, `languages` (how many problems; with a
    `model`, also how many of its tokens per problem and word, and as a multiple of the English
    text's tokens, if there is one), the `suites` that were compared, from copies in a `folder`, and
    `findings`, the worst first.

    Raises UserError if the source cannot be read, contains no problem, or is a stream.
    """
    account = DataReport()
    train, dev = load_problems(data, account)
    if isinstance(train, ProblemStream):
        raise UserError("a stream cannot be checked: remove data.streaming and set data.limit")
    problems = [*train, *dev]
    suites = at_hand(folder) if folder else {}
    if folder and not suites:
        raise UserError(f"--data-dir {folder}: no file of any suite (see `opsd evaluate --help`)")
    found = [*_dropped(account), *findings(problems), *overlaps(problems, suites)]
    return {
        "source": data.source,
        "problems": len(problems),
        "languages": _languages(problems, _tokenizer(model) if model else None),
        "suites": {name: len(own) for name, own in suites.items()},
        "findings": worst_first(found),
    }


def worst_first(found: Iterable[Finding]) -> list[dict[str, Any]]:
    """Findings as plain values, the worst first."""
    return [asdict(finding) for finding in sorted(found, key=lambda finding: finding.order)]


def _dropped(account: DataReport) -> list[Finding]:
    """The rows that are left out when they are read, by reason."""
    return [
        Finding(
            f"are left out: {reason}",
            "note",
            "as data.filters, data.limit and data.language say",
            account.rows,
            count,
            [{"where": account.first[reason], "told": ""}],
        )
        for reason, count in account.dropped.items()
    ]


def _tokenizer(model: str) -> Any:
    # Imported here, since most checks need no torch.
    from opsd.lm.loading import load_tokenizer

    return load_tokenizer(model)


def _languages(problems: Sequence[Problem], tokenizer: Any) -> list[dict[str, Any]]:
    """A row for each language, the most frequent first."""
    counts = Counter(problem.language for problem in problems)
    own: dict[str, list[Problem]] = defaultdict(list)
    for problem in problems:
        if len(own[problem.language]) < COUNTED:
            own[problem.language].append(problem)
    rows = []
    for code, count in counts.most_common():
        row: dict[str, Any] = {"code": code, "name": language(code).name, "problems": count}
        if tokenizer is not None:
            row |= _tokens(own[code], tokenizer)
        rows.append(row)
    return rows


def _tokens(problems: Sequence[Problem], tokenizer: Any) -> dict[str, Any]:
    """How many tokens problems take: the median, per word, and relative to their translations."""

    def count(texts: Sequence[str]) -> list[int]:
        read = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        return [len(ids) for ids in read]

    texts = [problem.text for problem in problems]
    lengths = count(texts)
    pairs = [
        (n, p) for n, p in zip(lengths, problems, strict=True) if "translation" in p.privileged
    ]
    told = count([p.privileged["translation"] for _, p in pairs]) if pairs else []
    return {
        "tokens": statistics.median_low(lengths),
        "per_word": sum(lengths) / max(sum(len(text.split()) for text in texts), 1),
        "beside_translation": sum(n for n, _ in pairs) / sum(told) if sum(told) else None,
    }
