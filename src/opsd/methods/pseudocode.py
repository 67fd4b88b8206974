"""Renders one step of a method as a few lines of pseudocode."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from opsd.methods.method import Method
from opsd.methods.signals import LossTerm, Teacher, loss_terms
from opsd.parts import called, tag
from opsd.rollout.rows import TOKENS


def pseudocode(method: Method) -> list[str]:
    """A method's step in four to eight lines. `p` and `q` are next-token distributions at every
    trained token, given a prompt and the preceding tokens (or, on a canvas, the tokens that a row
    shows)."""
    terms = loss_terms(method.signal)
    marks = [""] if len(terms) == 1 else [str(n) for n in range(1, len(terms) + 1)]
    lines, rows = [_rollouts(method)], method.source.rows
    if rows != TOKENS:
        lines.append(f"rows = {called(rows)} of every rollout")
    lines += [f"{a.name} = {tag(a)} author, of every {_per(a)}" for a in method.authors]
    lines.append(f"p = student(next token | {tag(method.student)})")
    parts = []
    for mark, (coefficient, term) in zip(marks, terms, strict=True):
        lines += _term(term, mark)
        factor = "" if coefficient == 1 else f"{coefficient:g} "
        unit = term.reduction.unit
        mean = "sum / limit" if unit == "constant" else f"mean over {unit}s"
        parts.append(f"{factor}{mean}(loss{mark})")
    times = "once" if method.reuse == 1 else f"{method.reuse} times"
    lines.append(f"step {times} on {' + '.join(parts)}")
    return lines


def _rollouts(method: Method) -> str:
    source = method.source
    if source.written is not None:
        return f"rollout = the dataset's {source.written}"
    first, *others = source.phases or (None,)
    who = "student"
    if first is None:
        return f"rollouts = {tag(source)} (problem)"
    if first.weights is not None:
        who = tag(first.weights)
    read = tag(first.view or method.student)
    line = f"rollouts = {who}.sample(problem as {read}, n={source.group}, {called(first.horizon)})"
    line += f", {source.kept}" if source.kept else ""
    return line + "".join(f", else tried again as {tag(o.view)}" for o in others if o.view)


def _per(author: Any) -> str:
    return str(getattr(author, "per", "group"))


def _term(term: LossTerm, mark: str) -> Iterator[str]:
    """The lines for what one loss term computes at every token."""
    if term.teacher is not None:
        yield f"q{mark} = {_target(term.teacher)}"
    factors = "".join(f" x {called(w)}" for w in term.weighting)
    yield f"{term.pseudocode(mark)}{factors}"


def _target(teacher: Teacher) -> str:
    weights = "+".join(map(tag, teacher.all_weights))
    read = f"{weights}(next token | {teacher.context.label})"
    if not teacher.target.is_view:
        read = f"{called(teacher.target)} of {read}"
    return read if teacher.support.is_full else f"{read}, {called(teacher.support)}"
