"""Finds shipped recipes and launch configurations (in the package when installed, in `recipes/` and
`configs/` of a source tree), and the recipes that a recipe extends."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from opsd.types import UserError
from opsd.validation import near, unknown

RECIPE = "recipe.yaml"
"""The file name of the recipe in a run's folder."""


def shipped() -> dict[str, Path]:
    """The shipped recipes' files, by name."""
    return _shipped("recipes")


def launcher(name: str) -> Path:
    """A shipped configuration of `accelerate launch`, by name. UserError if there is none."""
    known = _shipped("configs")
    if name not in known:
        raise UserError(unknown("launch configuration", name, known))
    return known[name]


def find(name: str) -> Path:
    """The file of a recipe, given as a path, a run's folder, or a shipped recipe's name. UserError
    for any other name."""
    path = Path(name)
    if _is_file_name(name):
        if path.is_file():
            return path
        beside = path.parent.glob("*.y*ml") if path.parent.is_dir() else ()
        raise UserError(f"no recipe file '{name}'{near(name, map(str, beside))}")
    known = shipped()
    if name not in known and (path / RECIPE).is_file():
        return path / RECIPE
    if name not in known:
        raise UserError(
            f"no recipe '{name}': neither a .yaml file, nor a run's folder, nor a shipped recipe"
            f" (`opsd recipes` lists them){near(name, known)}"
        )
    return known[name]


def refuse_taken(output: Path) -> None:
    """Raises UserError if a recipe cannot be written to a file: if it has another suffix, or
    already exists."""
    if not _is_file_name(str(output)):
        raise UserError(f"{output}: a recipe's file ends in .yaml")
    if output.exists():
        raise UserError(f"{output} already exists: name another file, or move it away")


def next_steps(output: Path) -> str:
    """The message after a recipe was written."""
    name = shlex.quote(str(output))
    return f"{output} is written. Next:\n  opsd preview {name}\n  opsd train {name}"


def output_of(name: str) -> Path:
    """The default output folder of a run: for a run's own recipe, that run's folder."""
    own = find(name).parent
    return own if Path(name).is_dir() and own.samefile(name) else Path("runs") / Path(name).stem


def lineage(
    path: Path, read: Callable[[Path], Mapping[str, Any]]
) -> list[tuple[Path, dict[str, Any]]]:
    """A recipe's file with its keys, then those of the recipe that it `extends`, and so on.
    `extends` is a shipped recipe's name, or a YAML file's path relative to the folder of the
    extending file.

    Raises UserError for a recipe that does not exist, and for recipes that extend each other in a
    circle.
    """
    found = [(path, dict(read(path)))]
    while "extends" in found[-1][1]:
        child, content = found[-1]
        parent = content.pop("extends")
        where = f"{child}: extends"
        if not isinstance(parent, str) or not parent.isprintable():
            raise UserError(
                f"{where}: a shipped recipe's name, or the path of a .yaml file, not {parent!r}"
            )
        path = child.parent / parent
        if _is_file_name(parent) and not os.path.isfile(path):
            raise UserError(
                f"{where}: no file '{path}'; the path is relative to the recipe's folder"
            )
        try:
            path = path if _is_file_name(parent) else find(parent)
            found.append((path, dict(read(path))))
        except UserError as error:
            raise UserError(f"{where}: {error}") from error
        if any(path.samefile(file) for file, _ in found[:-1]):
            raise UserError(
                f"{where}: '{parent}' extends this recipe in turn; remove one of the two"
            )
    return found


def _is_file_name(name: str) -> bool:
    return Path(name).suffix in (".yaml", ".yml")


@cache
def _shipped(kind: str) -> dict[str, Path]:
    installed = Path(__file__).parents[1] / kind
    folder = installed if installed.is_dir() else Path(__file__).parents[3] / kind
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))}
