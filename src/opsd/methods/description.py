"""Describes a method in words: every part of it, and what differs from the paper."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from pydantic import TypeAdapter

from opsd.methods import FUNCTIONS, Method
from opsd.methods.signals import LossTerm, loss_terms
from opsd.objective.divergences import formula_of
from opsd.parts import flat, tag

_METHOD = TypeAdapter(Method)


def describe(method: Method, temperature: float) -> str:
    """Describe every part of a method, one line each, with the formulas in use; `temperature` is
    the rollouts' sampling temperature. All differences from the catalogue are listed, as the paper
    is credited only for what the catalogue contains."""
    changed = changes(method)
    paper = f"{method.paper}, changed as below" if changed else method.paper
    lines = [f"method {method.name} ({paper})", f"  source: {worded(method.source)}"]
    lines += [f"  student reads: {worded(method.student)}"]
    lines += [f"  author: {worded(author)}" for author in method.authors]
    for coefficient, term in loss_terms(method.signal):
        own = temperature if term.temperature == "sampling" else term.temperature
        formula = f": {formula_of(term.divergence)}" if term.divergence is not None else ""
        lines.append(f"  {coefficient:g} x {tag(term)} at temperature {own:g}{formula}")
        lines += [f"    {name}: {text}" for name, text in _parts(term)]
    steps = f"{method.reuse} optimizer step{'s' if method.reuse > 1 else ''}"
    lines.append(f"  reuse: each batch of rollouts for {steps}")
    lines += [f"  changed from the paper: {change}" for change in changed]
    return "\n".join(lines)


def changes(method: Method) -> list[str]:
    """The differences from the catalogue's method of that name, as `key.path: theirs -> ours`.
    Empty for a method that is not in the catalogue."""
    if method.name not in FUNCTIONS:
        return []
    theirs, ours = (
        flat(_METHOD.dump_python(m, mode="json")) for m in (FUNCTIONS[method.name](), method)
    )
    differing = [key for key in theirs | ours if theirs.get(key) != ours.get(key)]
    # If a part is replaced by one of another type, showing the type is enough.
    replaced = [key.removesuffix("type") for key in differing if key.endswith(".type")]
    return [
        f"{key}: {_shown(theirs.get(key))} -> {_shown(ours.get(key))}"
        for key in differing
        if not any(key.startswith(part) and key != f"{part}type" for part in replaced)
    ]


def worded(value: Any) -> str:
    """A part as its type and its arguments: `top_k (k 100, by student, rest tail)`."""
    if isinstance(value, tuple | list):
        return ", ".join(map(worded, value)) or "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {worded(own)}" for key, own in value.items())
    if not is_dataclass(value):
        plain = isinstance(value, str | int | float | None)
        return " ".join(str(value).split()) if plain else tag(value)
    kind = tag(value)
    given = {f.name: getattr(value, f.name) for f in fields(value) if f.name != "type"}
    told = [
        f"{name} {worded(own)}"
        for name, own in given.items()
        # Empty values, and a template named like its context, are left out.
        if own not in ("", None, (), {}) and (name, own) != ("template", kind)
    ]
    return f"{kind} ({', '.join(told)})" if told else kind


def _parts(term: LossTerm) -> Iterator[tuple[str, str]]:
    if term.credit is not None:
        yield "credit", worded(term.credit)
        yield "surrogate", worded(term.surrogate)
    if term.teacher is not None:
        yield (
            "teacher",
            f"{term.teacher.context.label}@{'+'.join(map(tag, term.teacher.all_weights))}",
        )
        for name in ("context", "weights", "support", "target"):
            yield f"  {name}", worded(getattr(term.teacher, name))
    yield "weighting", worded(term.weighting)
    yield "reduction", f"averaged per {term.reduction.unit}, over {term.reduction.over} units"


def _shown(value: Any) -> str:
    return "none" if value is None else " ".join(str(value).split()) or "''"
