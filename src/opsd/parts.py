"""How the parts of a method are declared, and where they go.

A part is a frozen value that a recipe and Python write alike. A slot takes the shipped parts of its
kind, by their `type`, and any other object that has what the slot's protocol asks for: in Python as
it is, in a recipe as `package.module:Name`.
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
    """A frozen, validated value; unknown keys are refused. Shipped parts have a `type`, their name
    in recipes."""
    return _pydantic_dataclass(frozen=True, config=ConfigDict(extra="forbid"))(cls)


def tag(value: Any) -> str:
    """A part's name in recipes, files and messages: its `type`, or `package.module:Name` of one
    that is not shipped."""
    kind = value if isinstance(value, type) or hasattr(value, "__qualname__") else type(value)
    module = str(kind.__module__)
    own = module.partition(".")[0] == __name__.partition(".")[0]
    return value.type if own and hasattr(value, "type") else f"{module}:{kind.__qualname__}"


def called(part: Any) -> str:
    """A part as Python would call it, without what is empty."""
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
    """Where parts of one kind go. `Annotated[Target, Slot("target", Target, (Single, ...))]` is the
    type of a field that takes the shipped ones, and whatever else has the protocol's members.

    Validation raises ValueError for a name that is neither shipped nor importable, and for an
    object that lacks something.
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
            raise ValueError(f"{tag(value)} is no {self.name}: a class, not one of its values")
        if missing := lacking(value, self.protocol):
            raise ValueError(f"{tag(value)} is no {self.name}: it lacks {missing}")
        if "__call__" in get_protocol_members(self.protocol):
            _refuse_signature(value, self)
        return value


OWN, SEVERAL = "part of one's own", "several"
"""Steps in the places of pydantic's errors that are no keys."""
UNKNOWN = "unknown_part"
"""The kind of pydantic's error for a part that is none of the shipped ones."""


def lacking(value: Any, protocol: type) -> str:
    """The members of a protocol that an object has not, by name."""
    return ", ".join(sorted(n for n in get_protocol_members(protocol) if not hasattr(value, n)))


def refuse_lacking(value: Any, protocol: type, who: str) -> None:
    """UserError, one line, where an object has not all members of a protocol; `who` names it."""
    if missing := lacking(value, protocol):
        raise UserError(f"{who} lacks {missing}: see {protocol.__module__}.{protocol.__name__}")


def _named(text: str) -> str | None:
    return OWN if ":" in text else None


def _refuse_signature(value: Any, slot: Slot) -> None:
    """ValueError where a part cannot be called as its slot calls it."""
    _, *given = inspect.signature(slot.protocol.__call__).parameters
    try:
        inspect.signature(value).bind(*given)
    except TypeError as error:
        told = f"{slot.name}({', '.join(given)})"
        raise ValueError(f"{tag(value)} cannot be called as {told}: {error}") from error
    except ValueError:  # built in: it says nothing of how it is called
        return


def imported(name: str) -> Any:
    """What `package.module:Name` stands for; a module in the folder that the command is started in
    counts, as with `python -m`. ValueError where there is nothing of the name, and for a module
    that fails."""
    module, _, path = name.partition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found = importlib.import_module(module)
        for step in path.split("."):
            found = getattr(found, step)
    except Exception as error:  # whatever somebody's module raises
        raise ValueError(f"there is no '{name}' ({error}); write package.module:Name") from error
    return found


def _made(content: dict[str, Any]) -> Any:
    """A part that is not shipped, from its name and the keys beside it. What a recipe cannot write
    down again is refused: a run could not be gone on with."""
    name = content.pop("type")
    found = imported(name)
    if not isinstance(found, type):
        if content:
            raise ValueError(f"{name} is not a class and takes no keys ({', '.join(content)})")
        if not hasattr(found, "__qualname__") and not is_dataclass(found):
            raise ValueError(f"{name} is a value: make its class a dataclass, and name that")
        return found
    known = {f.name for f in fields(found) if f.init} if is_dataclass(found) else set()
    for key in content.keys() - known:
        where = "an unknown key" if is_dataclass(found) else "a key of what is no dataclass"
        raise ValueError(f"{name}: '{key}' is {where}")
    try:
        return _adapter(found).validate_python(content) if known else found()
    except ValidationError:
        raise
    except Exception as error:  # whatever somebody's class raises
        raise ValueError(f"{name} cannot be made: {error}") from error


@cache
def _adapter(cls: type) -> TypeAdapter[Any]:
    return TypeAdapter(cls)


def _plain(value: Any, info: SerializationInfo) -> Any:
    """A part as a recipe writes it."""
    if isinstance(value, list | tuple):
        return [_plain(x, info) for x in value]
    found = _adapter(type(value)).dump_python(value, mode=info.mode) if is_dataclass(value) else {}
    return {**found, "type": tag(value)} if "type" in found else {"type": tag(value), **found}


def parts_of(value: Any) -> Iterator[Any]:
    """A part and all that it is made of, at whatever depth."""
    if isinstance(value, tuple | list):
        for x in value:
            yield from parts_of(x)
    elif not isinstance(value, str | int | float | Mapping | None):
        yield value
        for f in fields(value) if is_dataclass(value) else ():
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


def laid_over(below: Any, above: Any, name: str = "type") -> Any:
    """Plain values with changes laid over them: mappings key by key, but for one whose `name` says
    that it is something else; anything else is replaced whole, as are a chat template's options.

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
