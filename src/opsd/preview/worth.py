"""The verdict on a measured teacher, in words: whether it is worth training towards.

The thresholds are rules of thumb. They do not predict a run's score: only a run and its controls
decide.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

ANOTHER, WRONG = "told of another problem", "told a wrong solution"
ALONE, UNFORCED = "told without the problem", "student, not forced"
"""Readers, named by what they read, and the student without the forced beginning of its replies;
the others are `student` and `teacher`."""

TRAIN = "worth training"
CHANGE = "worth another context"
NOT = "not worth training"
UNKNOWN = "cannot tell yet"

SMALL = 0.05
"""If the interval excludes gains of this size, the help is not worth its cost."""
SAME = 0.01
"""Nats per token below which the teacher predicts the same as the student."""
MOST = 0.5

Plain = Mapping[str, Any]
"""The result of `opsd.preview.measure.measure`."""


def worth(content: Plain) -> tuple[str, list[str]]:
    """One of four verdicts, and a sentence for each reason."""
    found = [*_gain(content), *_distance(content), *_copying(content), *_form(content)]
    reasons = [reason for _, reason in found] + [*_remarks(content)]
    verdicts = [verdict for verdict, _ in found]
    return next(v for v in (NOT, UNKNOWN, CHANGE, TRAIN) if v in verdicts), reasons


def answers(content: Plain) -> dict[str, Plain]:
    """The rows of answers by reader."""
    return {row["reader"]: row for row in content["answers"]}


def _gain(content: Plain) -> Iterator[tuple[str, str]]:
    gain, rows = content["gain"], answers(content)
    if gain is None:
        yield UNKNOWN, "Whether the teacher answers better than the student could not be measured."
        return
    student, teacher = (rows[name]["right"]["value"] for name in ("student", "teacher"))
    told = (
        f"of the teacher's answers {teacher:.0%} are right, of the student's {student:.0%}"
        f" ({100 * gain['value']:+.0f} points, 95 % {100 * gain['low']:.0f} to"
        f" {100 * gain['high']:.0f})"
    )
    if gain["low"] > 0:
        yield TRAIN, f"Telling helps: {told}."
    elif gain["high"] < SMALL:
        yield NOT, f"Telling does not help: {told}."
    else:
        yield UNKNOWN, f"Whether telling helps is not certain: {told}. Measure more problems."


def _distance(content: Plain) -> Iterator[tuple[str, str]]:
    nats = content["nats"]
    if nats < SAME:
        yield (
            NOT,
            f"The teacher predicts what the student does: they are {nats:.2g} nats a token apart.",
        )


def _copying(content: Plain) -> Iterator[tuple[str, str]]:
    rows = answers(content)
    if WRONG not in rows:
        return
    follows, right = rows[WRONG]["follows"], rows["teacher"]["right"]["value"]
    told = f"given a wrong solution, it repeats that one's answer in {follows:.0%} of the cases"
    if follows > MOST * right:
        yield CHANGE, f"It copies: {told}. Its steps are no better than its reference."
    else:
        yield TRAIN, f"It does not only copy: {told}."


def _form(content: Plain) -> Iterator[tuple[str, str]]:
    share = content["explained"].get(ANOTHER)
    if share is None:
        return
    told = "of what it would teach remains with another problem's texts"
    if share > MOST:
        yield (
            CHANGE,
            f"It teaches form more than content: {share:.0%} {told}. That alone may raise a score.",
        )
    elif share > 0:
        yield TRAIN, f"It teaches content: only {share:.0%} {told}."
    else:
        yield TRAIN, f"It teaches content: none {told}."


def _remarks(content: Plain) -> Iterator[str]:
    rows = answers(content)
    if "teacher" in rows:
        student, teacher = (rows[name]["tokens"] for name in ("student", "teacher"))
        if not MOST <= teacher / student <= 1 / MOST:
            how = "short" if teacher < student else "long"
            told = f"{teacher:.0f} tokens, the student's {student:.0f}"
            yield f"It teaches to be {how}: its answers have {told}."
    if UNFORCED in rows:
        forced, free = (rows[name]["fidelity"] for name in ("student", UNFORCED))
        if None not in (forced, free) and abs(forced - free) > SMALL:
            told = f"{forced:.0%} of what it writes is in the language, {free:.0%} without"
            yield f"The forced beginning of a reply decides the language: {told}."
    share = content["explained"].get(ALONE)
    if share is not None and share > MOST:
        yield (
            f"The solution alone, without the problem, gives {share:.0%} of what it would teach: a"
            " purified target removes that (`purified_opsd`)."
        )
    moved = content["wording"]
    if moved and (most := max(moved.values())) > MOST:
        name = max(moved, key=moved.__getitem__)
        told = "more than all" if most > 1 else f"{most:.0%}"
        yield (
            f"The wording matters: in {name} words the same texts change {told} of what it would"
            " teach. Try other wordings."
        )
