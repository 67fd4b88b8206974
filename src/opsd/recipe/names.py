"""Reads names that are declared in modules with torch from their source, so that a mistyped name is
reported at once."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Collection
from functools import cache
from pathlib import Path

import yaml

_PACKAGE = Path(__file__).parents[1]


@cache
def methods() -> dict[str, frozenset[str]]:
    """The catalogue's methods, each with the keys that it accepts in a recipe: its function's
    arguments, and the parts of a method."""
    folder = _PACKAGE / "methods"
    modules = [
        alias.name
        for node in _tree(folder / "__init__.py").body
        if isinstance(node, ast.ImportFrom) and node.module == "opsd.methods"
        for alias in node.names
    ]
    functions = [
        node
        for module in modules
        for node in _tree(folder / f"{module}.py").body
        if isinstance(node, ast.FunctionDef) and node.name[0] != "_"
    ]
    parts = _fields(folder / "method.py", "Method")
    return {
        function.name: parts.union(argument.arg for argument in function.args.args)
        for function in functions
        if isinstance(function.returns, ast.Name) and function.returns.id == "Method"
    }


def usual_method(texts: Collection[str], *, english: bool) -> str:
    """The usual method for problems with these texts (`solution`, `answer`, ...); the last one in
    the list if none fits."""
    usual = yaml.safe_load((_PACKAGE / "methods" / "usual.yaml").read_text("utf-8"))
    fit = [row for row in usual if not (english and row.get("foreign")) and row["needs"] in texts]
    return [*fit, usual[-1]][0]["method"]


@cache
def train_keys() -> frozenset[str]:
    """The fields of `OPSDConfig`, with those of the installed Transformers."""
    own = _fields(_PACKAGE / "training" / "config.py", "OPSDConfig")
    found = importlib.util.find_spec("transformers")
    (folder,) = (found and found.submodule_search_locations) or ("",)
    return own | _fields(Path(folder) / "training_args.py", "TrainingArguments")


def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text("utf-8"))


def _fields(file: Path, name: str) -> frozenset[str]:
    """The annotated fields of a class."""
    return frozenset(
        line.target.id
        for node in _tree(file).body
        if isinstance(node, ast.ClassDef) and node.name == name
        for line in node.body
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
    )
