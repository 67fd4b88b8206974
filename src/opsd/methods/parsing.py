"""Parses a method: its name, or a mapping with the differences from the catalogue."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from opsd.methods import FUNCTIONS, Method
from opsd.parts import laid_over
from opsd.types import UserError
from opsd.validation import explain, unknown

_METHOD = TypeAdapter(Method)


def method(value: Any, where: str = "recipe") -> Method:
    """Parse a method from its name, or from a mapping with a name and the differences from the
    catalogue.

    Keys that the catalogue's function takes (`beta` of grpo) are its arguments. The others replace
    parts of the method: key by key, or whole if the `type` changes. Plain mappings
    (`template_options`) are replaced whole. A name that is not in the catalogue defines a new
    method, which must give its `signal`.
    """
    if not isinstance(value, str | Mapping):
        raise UserError(f"{where}: method is a name, or a mapping with a name and changed parts")
    given = {"name": value} if isinstance(value, str) else dict(value)
    name = given.pop("name", None)
    if isinstance(name, str) and name not in FUNCTIONS and "signal" in given:
        return _validated({"name": name, **given}, where)
    if not isinstance(name, str) or name not in FUNCTIONS:
        raise UserError(f"{where}: {unknown('method', name, FUNCTIONS)}")
    takes = inspect.signature(FUNCTIONS[name], eval_str=True).parameters
    arguments = {key: given.pop(key) for key in list(given) if key in takes}
    for key, argument in arguments.items():
        try:
            arguments[key] = TypeAdapter(takes[key].annotation).validate_python(argument)
        except ValidationError as error:
            # pydantic knows the argument's own keys; the path starts with the argument's name.
            told = explain(error, argument, takes[key].annotation)
            dot = "" if told.startswith(": ") else "."
            raise UserError(f"{where}: method.{key}{dot}{told}") from error
    base = _METHOD.dump_python(FUNCTIONS[name](**arguments), mode="json")
    content = {**base, **{key: laid_over(base.get(key), part) for key, part in given.items()}}
    return _validated(content, where)


def _validated(content: Mapping[str, Any], where: str) -> Method:
    try:
        return _METHOD.validate_python(content)
    except ValidationError as error:
        raise UserError(f"{where}: method.{explain(error, content, _METHOD)}") from error
