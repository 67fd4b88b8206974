"""A bank of skills and common mistakes, from which a teacher is shown those that fit the problem
(SGSD, Huang et al. 2026, arXiv 2605.28791)."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from opsd.types import UserError
from opsd.validation import content


class Item(BaseModel):
    """The base of skills and mistakes; `tags` say which problems an item is about."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: Annotated[str, Field(min_length=1)]
    tags: tuple[str, ...] = ()


class Skill(Item):
    """A principle, and when to apply it."""

    title: str
    principle: str
    when_to_apply: str = ""

    @property
    def text(self) -> str:
        return " ".join(f"{self.title}: {self.principle} {self.when_to_apply}".split())


class Mistake(Item):
    """A common mistake, why it happens, and how to avoid it."""

    description: str
    why_it_happens: str = ""
    how_to_avoid: str = ""

    @property
    def text(self) -> str:
        return " ".join(f"{self.description} {self.why_it_happens} {self.how_to_avoid}".split())


class Bank(BaseModel):
    """Skills and mistakes; a file of them is JSON or YAML with these two keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    skills: tuple[Skill, ...] = ()
    mistakes: tuple[Mistake, ...] = ()


def read_bank(path: str) -> Bank:
    """Read a bank from a file, or from a file in a package (`package:file`). Raises UserError, one
    line, if anything is wrong with it."""
    package, _, name = path.partition(":")
    try:
        file = resources.files(package) / name if name and not Path(path).exists() else Path(path)
    except (ImportError, ValueError, OSError) as error:
        raise UserError(f"skill bank {path}: {' '.join(str(error).split())}") from error
    try:
        return Bank.model_validate(content(file))
    except UserError as error:
        raise UserError(f"skill bank {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = "".join(f"{key}." for key in first["loc"]).rstrip(".") or "the file"
        raise UserError(f"skill bank {path}: {where}: {first['msg']}") from error
