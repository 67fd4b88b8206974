"""How the parts of a method are declared: frozen values that a recipe and Python write alike."""

from __future__ import annotations

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass as _pydantic_dataclass
from typing_extensions import dataclass_transform


@dataclass_transform(frozen_default=True)
def part(cls: type) -> type:
    """A frozen, validated value with a `type` tag; unknown keys are refused."""
    return _pydantic_dataclass(frozen=True, config=ConfigDict(extra="forbid"))(cls)
