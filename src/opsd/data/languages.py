"""Languages as data: what a prompt says in each of them. One YAML file per language."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from opsd.types import UserError


class Labels(BaseModel):
    """Headings inside a prompt."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    problem: str
    translation: str
    solution: str
    begin: str
    end: str


class Language(BaseModel):
    """The strings of one language. `verified` says whether a speaker has read them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    code: str
    name: str
    script: str
    direction: Literal["ltr", "rtl"] = "ltr"
    verified: bool = False
    instruction: str
    transition: str
    think_prefix: str
    labels: Labels


def codes() -> list[str]:
    """The codes of all known languages, ISO 639-3, sorted."""
    names = [f.name for f in (resources.files("opsd.data") / "languages").iterdir()]
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


@cache
def language(code: str) -> Language:
    """The language with this ISO 639-3 code.

    Raises UserError for an unknown code: falling back to English would train the wrong language.
    """
    if code not in codes():
        raise UserError(f"unknown language '{code}'; known: {', '.join(codes())}")
    text = (resources.files("opsd.data") / "languages" / f"{code}.yaml").read_text("utf-8")
    try:
        return Language.model_validate(yaml.safe_load(text))
    except ValidationError as error:
        raise UserError(f"language file {code}.yaml: {error}") from error
