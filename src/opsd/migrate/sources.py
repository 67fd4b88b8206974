"""The rules for other projects' flags: one YAML file per project, read into values.

A file lists the `programs` that it is about, the `recipe` that a migration begins with, and what
becomes of every flag. Another project is another file, here or of the user's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from opsd.types import UserError
from opsd.validation import content, explain, unknown

LAUNCHERS = "launchers"
"""The file for launchers, which come before a program: accelerate, torchrun and the like."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Case(_Strict):
    """What becomes of a flag `when` other flags (and processes) have these values; null stands for
    a flag that is not given.

    `to` is a recipe's key. What is written there is the flag's value; or `value`; or the entry of
    `values` for the flag's value, where the keys `positive` and `other` are tried last. In what is
    written, `$value` stands for the flag's value, `$there` for what the key contains so far, and
    `$NAME` for another flag's value; null writes nothing. `change` changes the value first:
    `lower`, `complement` (1 minus it), `count` (the number of comma-separated values). Without
    `to`, the flag had no effect there (`dead`), is always so here (`always`), has no counterpart
    (`none`), or is read with another flag. `why` says what changed.
    """

    when: dict[str, Any] = Field(default_factory=dict)
    to: str | None = None
    value: Any = None
    values: dict[Any, Any] = Field(default_factory=dict)
    change: Literal["lower", "complement", "count"] | None = None
    why: str | None = None
    dead: str | None = None
    always: str | None = None
    none: str | None = None


class Flag(_Strict):
    """A flag's cases, of which the first that applies counts; and its `default`."""

    default: Any = None
    cases: tuple[Case, ...]

    @model_validator(mode="before")
    @classmethod
    def _in_full(cls, given: Any) -> Any:
        """Expands the short forms: `flag: key`, and a single case without `cases`."""
        if isinstance(given, str):
            return {"cases": [{"to": given}]}
        if isinstance(given, Mapping) and "cases" not in given:
            own = dict(given)
            return {"default": own.pop("default", None), "cases": [own]}
        return given


class Source(_Strict):
    """A project's program or trainer.

    `programs` are the names of its scripts or modules (with `*`), or two words of a command line;
    `only` are flags that must also have these values, `marks` are flags that identify its
    configuration file (for launchers: their names). `rollouts` are the flags (and `processes`) with
    the number of an optimizer step's rollouts as their product. With `trainer`, flags of
    `TrainingArguments` that are not named here are fields of `OPSDConfig`. `notes` apply to every
    migration.
    """

    about: str
    extends: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()
    only: dict[str, Any] = Field(default_factory=dict)
    marks: tuple[str, ...] = ()
    rollouts: tuple[str, ...] = ()
    trainer: bool = False
    recipe: dict[str, Any] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()
    flags: dict[str, Flag] = Field(default_factory=dict)


@cache
def sources() -> dict[str, Source]:
    """The shipped projects by name, including the flags of those that they extend."""
    files = resources.files("opsd.migrate").iterdir()
    found = {file.name.removesuffix(".yaml"): file for file in files if file.name.endswith(".yaml")}
    return {name: _read(found[name], found) for name in sorted(found)}


def source(name: str) -> Source:
    """A project by its name, or from a file of the user's own. UserError if it does not exist."""
    if Path(name).suffix in (".yaml", ".yml"):
        files = resources.files("opsd.migrate")
        return _read(Path(name), {known: files / f"{known}.yaml" for known in sources()})
    if name not in programs():
        raise UserError(f"--source: {unknown('project', name, programs())}, or a .yaml file")
    return sources()[name]


def programs() -> dict[str, Source]:
    """The projects with known programs, without files that others only extend."""
    return {name: one for name, one in sources().items() if one.programs}


def _read(file: Any, found: Mapping[str, Any]) -> Source:
    given = content(file)
    try:
        own = Source.model_validate(given)
    except ValidationError as error:
        raise UserError(f"{file}: {explain(error, given, Source)}") from error
    flags: dict[str, Flag] = {}
    for parent in own.extends:
        if parent not in found:
            raise UserError(f"{file}: extends: {unknown('project', parent, found)}")
        flags |= _read(found[parent], found).flags
    return own.model_copy(update={"flags": flags | own.flags})
