"""How the parts of a method are declared: frozen values that a recipe and Python write alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass as _pydantic_dataclass
from typing_extensions import dataclass_transform


def parts_of(value: Any) -> Iterator[Any]:
    """A part and all that it is made of, at whatever depth."""
    if isinstance(value, tuple | list):
        for x in value:
            yield from parts_of(x)
    elif is_dataclass(value):
        yield value
        for f in fields(value):
            yield from parts_of(getattr(value, f.name))


def changed(value: Any, change: Callable[[Any], Any]) -> Any:
    """A part after `change` to it and to all that it is made of, from the outside in; the part
    itself where that changes nothing."""
    value = change(value)
    if isinstance(value, tuple | list):
        made = type(value)(changed(x, change) for x in value)
        return value if all(x is y for x, y in zip(made, value, strict=True)) else made
    if not is_dataclass(value) or isinstance(value, type):
        return value
    before = {f.name: getattr(value, f.name) for f in fields(value) if f.init}
    after = {name: changed(x, change) for name, x in before.items()}
    new = {name: x for name, x in after.items() if x is not before[name]}
    return replace(value, **new) if new else value


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """Plain values inside one another by the path of keys to each.

    >>> flat({"train": {"lr": 0.1}, "terms": [[1, {"type": "a"}]]})
    {'train.lr': 0.1, 'terms.0.0': 1, 'terms.0.1.type': 'a'}
    """
    inside = dict(enumerate(value)) if isinstance(value, list) else value
    if not isinstance(inside, dict) or not inside:
        return {path: value}
    found: dict[str, Any] = {}
    for key, own in inside.items():
        found |= flat(own, f"{path}.{key}" if path else str(key))
    return found


@dataclass_transform(frozen_default=True)
def part(cls: type) -> type:
    """A frozen, validated value with a `type` tag; unknown keys are refused."""
    return _pydantic_dataclass(frozen=True, config=ConfigDict(extra="forbid"))(cls)
