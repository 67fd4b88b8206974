"""Sample rollouts: a few before and after training."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, with_config
from typing_extensions import TypedDict

from opsd.prompts.tokens import completion_reader, pieces
from opsd.report.runs import Row, Run
from opsd.runs.json_files import as_type, finite, rows

SAMPLES = 3
"""How many rollouts of each run are shown, before training and after."""

LEVELS = 5
"""Shades of divergence, from none to darkest."""


@with_config(ConfigDict(extra="allow", strict=True))
class _Rollout(TypedDict, total=False):
    """The part of a line of `rollouts/*.jsonl` that is shown."""

    step: int
    problem: str
    language: str
    prompt: str
    views: list[dict[str, Any]] | None
    completion: str
    completion_ids: list[int] | None
    answer: str | None
    correct: bool | None
    finish: str | None
    divergence: list[float | None] | None


_ROLLOUT = TypeAdapter(_Rollout)


@dataclass(frozen=True)
class Piece:
    """A stretch of a completion with tokens of one shade, 0 to LEVELS - 1."""

    text: str
    level: int
    tokens: int


@dataclass(frozen=True)
class Sample:
    """One rollout as the page shows it. `pieces` is empty if no divergence was logged; `in_text`
    says whether the pieces contain the completion's text or only its tokens' shades."""

    when: str
    problem: str
    language: str
    prompt: str
    teachers: tuple[tuple[str, str], ...]
    completion: str
    answer: str
    correct: bool | None
    cut_off: bool
    pieces: tuple[Piece, ...] = ()
    in_text: bool = False


@dataclass(frozen=True)
class Shown:
    """A run's samples, and the divergence (nats) at which a token gets the darkest shade."""

    label: str
    before: tuple[Sample, ...]
    after: tuple[Sample, ...]
    darkest: float | None

    @property
    def pairs(self) -> list[tuple[Sample, Sample | None]]:
        """Each sample from before training with one from after it, if there is one."""
        return [
            (sample, self.after[i] if i < len(self.after) else None)
            for i, sample in enumerate(self.before)
        ]


def samples(run: Run) -> Shown | None:
    """Rollouts of the first step, and of the last one: of the same problems if these recur."""
    early, late = _first_and_last(run.path)
    if not early:
        return None
    values = sorted(v for row in (*early, *late) for v in _divergence(row) if v is not None)
    # Few tokens carry most of the divergence: if fewer than 1 in 20 has any, take the largest.
    darkest = (values[int(0.95 * (len(values) - 1))] or values[-1] or None) if values else None
    tokenizer = _tokenizer(run.path) if values else None
    before, after = (
        tuple(_sample(row, darkest, tokenizer) for row in part) for part in (early, late)
    )
    return Shown(run.label, before, after, darkest)


def _first_and_last(path: Path) -> tuple[list[Row], list[Row]]:
    """A few rows of the earliest logged step and of the latest one. Reads the files once, and keeps
    one step in memory, since a long run's rollouts may not fit."""
    first: dict[str, Row] = {}
    latest: dict[str, Row] = {}
    again: dict[str, Row] = {}
    first_step = latest_step = None
    for row in _rows(path):
        step, problem = row.get("step", 0), str(row.get("problem", ""))
        if first_step is None or step < first_step:
            first_step, first = step, {}
        if latest_step is None or step > latest_step:
            latest_step, latest = step, {}
        if step == first_step:
            first.setdefault(problem, row)
        elif problem in first and step >= again.get(problem, row).get("step", 0):
            again[problem] = row
        if step == latest_step:
            latest.setdefault(problem, row)
    if latest_step == first_step:
        return list(first.values())[:SAMPLES], []
    shared = [problem for problem in first if problem in again][:SAMPLES]
    if shared:
        return [first[p] for p in shared], [again[p] for p in shared]
    return list(first.values())[:SAMPLES], list(latest.values())[: min(SAMPLES, len(first))]


def _rows(path: Path) -> Iterator[Row]:
    for file in sorted((path / "rollouts").glob("*.jsonl")):
        for number, row in enumerate(rows(file), 1):
            as_type(_ROLLOUT, row, f"{file}, line {number}")
            yield row


def _sample(row: Row, darkest: float | None, tokenizer: Any) -> Sample:
    divergence = [v or 0.0 for v in _divergence(row)]
    ids = row.get("completion_ids") or []
    completion = str(row.get("completion", ""))
    texts = None
    if tokenizer is not None and divergence:
        texts = pieces(completion_reader(tokenizer), ids)
    in_text = texts is not None and "".join(text for text, _ in texts) == completion
    spans = texts if in_text and texts is not None else [("", 1)] * len(divergence)
    step = row.get("step", 0)
    return Sample(
        when=f"step {step}" if step else "before training",
        problem=str(row.get("problem", "")),
        language=str(row.get("language", "")),
        prompt=str(row.get("prompt", "")),
        teachers=tuple(
            (str(view.get("name", "")), str(view.get("prompt", "")))
            for view in row.get("views") or ()
        ),
        completion=completion,
        answer=str(row.get("answer") or ""),
        correct=row.get("correct"),
        cut_off=row.get("finish") == "length",
        pieces=tuple(_pieces(spans, divergence, darkest or 0.0)),
        in_text=in_text,
    )


def _pieces(
    spans: Sequence[tuple[str, int]], divergence: Sequence[float], darkest: float
) -> Iterator[Piece]:
    """Merges neighbouring tokens of one shade into one piece."""
    start = 0
    text, level, tokens = "", -1, 0
    for part, count in spans:
        values = divergence[start : start + count]
        start += count
        share = max(values, default=0.0) / darkest if darkest > 0 else 0.0
        shade = min(LEVELS - 1, int(share * LEVELS))
        if shade != level and tokens:
            yield Piece(text, level, tokens)
            text, tokens = "", 0
        text, level, tokens = text + part, shade, tokens + count
    if tokens:
        yield Piece(text, level, tokens)


def _divergence(row: Row) -> list[float | None]:
    return [finite(value) for value in row.get("divergence") or ()]


def _tokenizer(path: Path) -> Any:
    """The tokenizer that the run saved with its model, or None before the first checkpoint."""
    files = [path / "tokenizer.json", *sorted(path.glob("checkpoint-*/tokenizer.json"))]
    for file in files:
        if file.exists():
            from tokenizers import Tokenizer

            # A killed process may leave half a file, for which the library raises a bare Exception.
            # Shades are then shown next to the text instead of behind it.
            with contextlib.suppress(Exception):
                return Tokenizer.from_file(str(file))
    return None
