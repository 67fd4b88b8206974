"""Where shipped recipes and launch configurations are: in the package when installed, in `recipes/`
and `configs/` of a source tree."""

from __future__ import annotations

from pathlib import Path

from opsd.types import UserError


def shipped() -> dict[str, Path]:
    """The shipped recipes' files, by name."""
    return _shipped("recipes")


def launcher(name: str) -> Path:
    """A shipped configuration of `accelerate launch`, by name. UserError where there is none."""
    known = _shipped("configs")
    if name not in known:
        raise UserError(f"no launch configuration '{name}'; there are {', '.join(known)}")
    return known[name]


def find(name: str) -> Path:
    """The file of a recipe: a path, or a shipped recipe's name. UserError where it is neither."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        if path.is_file():
            return path
        raise UserError(f"no recipe file '{name}'")
    known = shipped()
    if name not in known:
        raise UserError(f"no recipe '{name}': neither a .yaml file nor one of {', '.join(known)}")
    return known[name]


def _shipped(kind: str) -> dict[str, Path]:
    installed = Path(__file__).parents[1] / kind
    folder = installed if installed.is_dir() else Path(__file__).parents[3] / kind
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))}
