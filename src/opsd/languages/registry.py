"""Languages as data: the texts of prompts in each language. One YAML file per language."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable
from functools import cache
from importlib import resources
from pathlib import Path

import yaml

from opsd.languages import files as language_files
from opsd.languages.files import Labels, Language
from opsd.runs.files import write_atomically
from opsd.types import UserError

__all__ = [
    "Labels",
    "Language",
    "check",
    "codes",
    "keep",
    "language",
    "recalled",
    "remarks",
    "resolve",
]

SUFFIXES = {".yaml", ".yml"}
FOLDER = "languages"
"""Where a run keeps the user's own language files, below its folder."""

_SHOWN = 60

_OWN: dict[str, Language] = {}
"""Languages from the user's own files that were resolved in this process, by code."""


def codes() -> list[str]:
    """The codes of all known languages, ISO 639-3, sorted."""
    return sorted(_shipped_codes() | _OWN.keys())


def language(code: str) -> Language:
    """The language with this ISO 639-3 code.

    Raises UserError for an unknown code: falling back to English would train the wrong language.
    """
    if code in _OWN:
        return _OWN[code]
    if code in _shipped_codes():
        return _shipped(code)
    raise _unknown(code)


def resolve(name: str) -> str:
    """The ISO 639-3 code for a code, a name or an alias (in any case), or for a language file of
    the user's own (`.yaml`).

    From then on, this process uses such a file instead of a shipped one with the same code.

    >>> resolve("sw"), resolve("Kiswahili")
    ('swa', 'swa')

    Raises UserError for an unknown name, and for a file in which `check` finds faults.
    """
    if name in _OWN or name in _shipped_codes():
        return name
    if Path(name).suffix in SUFFIXES:
        own = _read(Path(name))
        _OWN[own.code] = own
        return own.code
    code = _names().get(_key(name))
    if code is None:
        raise _unknown(name)
    return code


def keep(names: Iterable[str], folder: Path) -> None:
    """Copies the language files of the user's own among `names` into a run's folder, so that a
    later evaluation uses the same texts as training."""
    for name in names:
        if Path(name).suffix in SUFFIXES:
            (folder / FOLDER).mkdir(parents=True, exist_ok=True)
            text = Path(name).read_text("utf-8")
            write_atomically(folder / FOLDER / f"{resolve(name)}.yaml", text)


def recalled(folder: Path) -> list[str]:
    """Registers the language files in a run's folder, and returns their codes. UserError if another
    file with the same code and other contents is in use."""
    codes = []
    for file in sorted((folder / FOLDER).glob("*.yaml")):
        own = _read(file)
        if _OWN.setdefault(own.code, own) != own:
            raise UserError(
                f"{file} differs from the language file for '{own.code}' that is in use: evaluate"
                " one model at a time"
            )
        codes.append(own.code)
    return codes


def check(path: str | Path) -> list[str]:
    """What is wrong with a language file, a line each; empty if it can be used."""
    return language_files.faults(Path(path), _shipped_names())


def remarks(path: str | Path) -> list[str]:
    """What a user of a valid language file should know, a line each."""
    return language_files.remarks(language_files.read(Path(path), _shipped_names()), Path(path))


@cache
def _read(path: Path) -> Language:
    """A user's file, which is read once, so that a run does not change its prompts halfway."""
    return language_files.read(path, _shipped_names())


@cache
def _shipped_codes() -> frozenset[str]:
    names = [f.name for f in resources.files("opsd.languages").iterdir()]
    return frozenset(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


@cache
def _shipped(code: str) -> Language:
    text = (resources.files("opsd.languages") / f"{code}.yaml").read_text("utf-8")
    return Language.model_validate(yaml.safe_load(text))


@cache
def _shipped_names() -> dict[str, str]:
    """Maps names of the shipped languages to their codes; reads all files."""
    return {name: code for code in sorted(_shipped_codes()) for name in _shipped(code).names}


def _names() -> dict[str, str]:
    own = {name: known.code for known in _OWN.values() for name in known.names}
    return {**_shipped_names(), **own} if own else _shipped_names()


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold().strip()


def _unknown(name: str) -> UserError:
    names = _names()
    near = difflib.get_close_matches(_key(name), names, 1, cutoff=0.75)
    known = {code: f"{code} ({language(code).name})" for code in codes()}
    mend = f"did you mean {known[names[near[0]]]}? " if near else ""
    shown = " ".join(name.split())[:_SHOWN]  # it may be any cell of a table
    return UserError(
        f"unknown language '{shown}'; {mend}known: {', '.join(known.values())};"
        " or the path of a language file (.yaml)"
    )
