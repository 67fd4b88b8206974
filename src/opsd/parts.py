"""How the parts of a method are declared, and where they go.

A part is a frozen value that can be written in a recipe or in Python. A slot takes the shipped
parts of its kind, named by their `type`, and any other object that implements the slot's protocol:
the object itself in Python, `package.module:Name` in a recipe.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache
from typing import Any

from pydantic import (
    ConfigDict,
    GetCoreSchemaHandler,
    SerializationInfo,
    TypeAdapter,
    ValidationError,
)
from pydantic.dataclasses import dataclass as _pydantic_dataclass
from pydantic_core import core_schema
from typing_extensions import dataclass_transform, get_protocol_members

from opsd.types import UserError


@dataclass_transform(frozen_default=True)
def part(cls: type) -> type:
    """Class decorator for parts: a frozen, validated dataclass that rejects unknown keys. Shipped
    parts have a `type`, their name in recipes."""
    return _pydantic_dataclass(frozen=True, config=ConfigDict(extra="forbid"))(cls)


def tag(value: Any) -> str:
    """A part's name in recipes, files and messages: its `type`, or `package.module:Name` for a part
    that is not shipped."""
    kind = value if isinstance(value, type) or hasattr(value, "__qualname__") else type(value)
    module = str(kind.__module__)
    own = module.partition(".")[0] == __name__.partition(".")[0]
    return value.type if own and hasattr(value, "type") else f"{module}:{kind.__qualname__}"


def called(part: Any) -> str:
    """A part as a Python call, without its empty arguments."""
    if isinstance(part, tuple):
        return f"({', '.join(map(called, part))})"
    if not is_dataclass(part):
        plain = isinstance(part, str | int | None)
        return f"{part:.4g}" if isinstance(part, float) else str(part) if plain else tag(part)
    given = {f.name: getattr(part, f.name) for f in fields(part) if f.name != "type"}
    told = [f"{k}={called(v)}" for k, v in given.items() if v is not None and v not in ("", (), {})]
    return f"{tag(part)}({', '.join(told)})" if told else tag(part)


@dataclass(frozen=True)
class Slot:
    """A field that takes parts of one kind.
    `Annotated[Target, Slot("target", Target, (Single, ...))]` is the type of a field that takes the
    shipped parts, and any other object with the protocol's members.

    Validation raises ValueError for a name that is neither shipped nor importable, and for an
    object that lacks a member of the protocol.
    """

    name: str
    protocol: type
    shipped: tuple[type, ...]
    several: bool = False
    """Whether the field takes a tuple of such parts as well."""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        choices: dict[Any, Any] = {cls.type: handler.generate_schema(cls) for cls in self.shipped}
        known = ", ".join(choices)
        choices[OWN] = core_schema.no_info_plain_validator_function(self._own)

        def chosen(choices: dict[Any, Any]) -> core_schema.CoreSchema:
            return core_schema.tagged_union_schema(
                choices,
                discriminator=self._choice,
                custom_error_type=UNKNOWN,
                custom_error_message=f"it is {known}, or package.module:Name of your own",
                serialization=core_schema.plain_serializer_function_ser_schema(
                    _plain, info_arg=True
                ),
            )

        one = chosen(choices)
        many = core_schema.tuple_variable_schema(one, min_length=1)
        return chosen({**choices, SEVERAL: many}) if self.several else one

    def _choice(self, value: Any) -> str | None:
        if self.several and isinstance(value, list | tuple):
            return SEVERAL
        if type(value) in self.shipped:
            return value.type
        if isinstance(value, Mapping):
            value = value.get("type")
            if not isinstance(value, str):
                return None
            return value if value in {cls.type for cls in self.shipped} else _named(value)
        if isinstance(value, str):
            return _named(value)
        return None if isinstance(value, list | tuple | int | float | None) else OWN

    def _own(self, value: Any) -> Any:
        if isinstance(value, str):
            value = {"type": value}
        if isinstance(value, Mapping):
            value = _made(dict(value))
        if isinstance(value, type):
            raise ValueError(f"{tag(value)} is not a valid {self.name}: a class, not an instance")
        if missing := lacking(value, self.protocol):
            raise ValueError(f"{tag(value)} is not a valid {self.name}: it lacks {missing}")
        if "__call__" in get_protocol_members(self.protocol):
            _refuse_signature(value, self)
        return value


OWN, SEVERAL = "part of one's own", "several"
"""Steps in the locations of pydantic's errors that are not keys."""
UNKNOWN = "unknown_part"
"""The type of pydantic's error for a part that is not one of the shipped ones."""


def lacking(value: Any, protocol: type) -> str:
    """The names of the protocol's members that an object lacks, separated by commas."""
    return ", ".join(sorted(n for n in get_protocol_members(protocol) if not hasattr(value, n)))


def refuse_lacking(value: Any, protocol: type, who: str) -> None:
    """Raise UserError if an object lacks members of a protocol; `who` names it in the message."""
    if missing := lacking(value, protocol):
        raise UserError(f"{who} lacks {missing}: see {protocol.__module__}.{protocol.__name__}")


def _named(text: str) -> str | None:
    return OWN if ":" in text else None


def _refuse_signature(value: Any, slot: Slot) -> None:
    """Raise ValueError if a part cannot be called with its slot's arguments."""
    _, *given = inspect.signature(slot.protocol.__call__).parameters
    try:
        inspect.signature(value).bind(*given)
    except TypeError as error:
        told = f"{slot.name}({', '.join(given)})"
        raise ValueError(f"{tag(value)} cannot be called as {told}: {error}") from error
    except ValueError:  # a built-in without a signature
        return


def imported(name: str) -> Any:
    """The object that `package.module:Name` refers to. As with `python -m`, modules in the current
    folder are found too. ValueError if there is no such object, or if importing its module
    fails."""
    module, _, path = name.partition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found = importlib.import_module(module)
        for step in path.split("."):
            found = getattr(found, step)
    except Exception as error:  # a user's module may raise anything
        raise ValueError(f"there is no '{name}' ({error}); write package.module:Name") from error
    return found


def _made(content: dict[str, Any]) -> Any:
    """A part that is not shipped, from its name and the keys next to it. Raises ValueError for a
    part that a recipe could not express again, since its run could not be resumed."""
    name = content.pop("type")
    found = imported(name)
    if not isinstance(found, type):
        if content:
            raise ValueError(f"{name} is not a class and takes no keys ({', '.join(content)})")
        if not hasattr(found, "__qualname__") and not is_dataclass(found):
            raise ValueError(f"{name} is an instance: make its class a dataclass, and name that")
        return found
    known = {f.name for f in fields(found) if f.init} if is_dataclass(found) else set()
    for key in content.keys() - known:
        where = "an unknown key" if is_dataclass(found) else "not allowed: not a dataclass"
        raise ValueError(f"{name}: '{key}' is {where}")
    try:
        return _adapter(found).validate_python(content) if known else found()
    except ValidationError:
        raise
    except Exception as error:  # a user's class may raise anything
        raise ValueError(f"{name} cannot be created: {error}") from error


@cache
def _adapter(cls: type) -> TypeAdapter[Any]:
    return TypeAdapter(cls)


def _plain(value: Any, info: SerializationInfo) -> Any:
    """A part as written in a recipe."""
    if isinstance(value, list | tuple):
        return [_plain(x, info) for x in value]
    found = _adapter(type(value)).dump_python(value, mode=info.mode) if is_dataclass(value) else {}
    return {**found, "type": tag(value)} if "type" in found else {"type": tag(value), **found}


def parts_of(value: Any) -> Iterator[Any]:
    """A part and all the parts inside it, at any depth."""
    if isinstance(value, tuple | list):
        for x in value:
            yield from parts_of(x)
    elif not isinstance(value, str | int | float | Mapping | None):
        yield value
        for f in fields(value) if is_dataclass(value) else ():
            yield from parts_of(getattr(value, f.name))


def changed(value: Any, change: Callable[[Any], Any]) -> Any:
    """Apply `change` to a part and to all the parts inside it, from the outside in. Returns the
    part itself if nothing changed."""
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


def laid_over(below: Any, above: Any, name: str = "type") -> Any:
    """Merge changes into plain values. Mappings are merged key by key, unless their values under
    the key `name` differ; then, as with any other value and with `template_options`, the new one
    replaces the old one whole.

    >>> laid_over({"type": "ema", "decay": 0.9, "per": "step"}, {"decay": 0.5})
    {'type': 'ema', 'decay': 0.5, 'per': 'step'}
    >>> laid_over({"type": "ema", "decay": 0.9}, {"type": "live"})
    {'type': 'live'}
    """
    if not (isinstance(below, Mapping) and isinstance(above, Mapping)):
        return above
    if above.get(name, below.get(name)) != below.get(name, above.get(name)):
        return dict(above)
    whole = {"template_options"}
    inner = {k: v if k in whole else laid_over(below.get(k), v) for k, v in above.items()}
    return {**below, **inner}


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """Flatten nested plain values to a mapping from key paths to values.

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
