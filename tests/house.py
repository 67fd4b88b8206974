"""The package's import graph: which file imports which, and what that breaks of the house's rules.

A rule takes a graph and returns its violations, so that each can be shown a planted one.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

FLOORS = (
    *("types", "parts", "schedule", "credentials", "console", "validation", "runs", "sandbox"),
    *("languages", "objective", "grade", "lm", "prompts", "teacher", "rollout", "authors"),
    *("methods", "miniature", "data", "suites", "translate", "publish", "training", "recipe"),
    *(
        "launch",
        "migrate",
        "evaluate",
        "pages",
        "preview",
        "doctor",
        "report",
        "inspect",
        "experiments",
    ),
    "cli",
)
"""The rooms, the lowest floor first: a room imports only rooms before it."""


@dataclass(frozen=True)
class Graph:
    """Modules by dotted name without the package's own: the modules that each imports, those for
    type checking and those inside functions included, and the private names that it takes."""

    imports: Mapping[str, frozenset[str]]
    private: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    parts: Mapping[str, str] = field(default_factory=dict)
    """The module of every part of a method, by the part's name."""
    told_apart: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """The classes that each module asks `isinstance` of, by name."""


def read(package: Path) -> Graph:
    """The graph of a package's source."""
    files = {_dotted(package, path): path for path in sorted(package.rglob("*.py"))}
    imports: dict[str, frozenset[str]] = {}
    private: dict[str, tuple[str, ...]] = {}
    parts: dict[str, str] = {}
    told_apart: dict[str, frozenset[str]] = {}
    for name, path in files.items():
        tree = ast.parse(path.read_text("utf-8"))
        parts |= dict.fromkeys(_parts(tree), name)
        told_apart[name] = frozenset(_told_apart(tree))
        found: set[str] = set()
        taken: list[str] = []
        for module, what in _imported(tree, package.name):
            whole = f"{module}.{what}".strip(".")
            target = whole if whole in files else module
            if target in files and target != name:
                found.add(target)
                if what.startswith("_") and target == module:
                    taken.append(f"{module}.{what}")
        imports[name], private[name] = frozenset(found), tuple(taken)
    return Graph(imports, private, parts, told_apart)


def room(module: str) -> str:
    """The folder that a module is in, or the module itself where it is in none."""
    return module.partition(".")[0]


def circles(graph: Graph) -> list[str]:
    """Files, and then folders, that import each other, however many steps apart."""
    rooms: dict[str, set[str]] = {}
    for module, targets in graph.imports.items():
        others = {room(target) for target in targets} - {room(module)}
        rooms.setdefault(room(module), set()).update(others)
    return [" <-> ".join(knot) for knot in (*_knots(graph.imports), *_knots(rooms))]


def upward(graph: Graph) -> list[str]:
    """Imports of a room that comes later in the list, or is not in it."""
    floor = {name: number for number, name in enumerate(FLOORS)}
    return [
        f"{module} -> {target}"
        for module, targets in graph.imports.items()
        for target in sorted(targets)
        if room(module) not in ("", "__main__")
        and room(module) != room(target)
        and floor.get(room(target), len(floor)) >= floor.get(room(module), -1)
    ]


def strangers(graph: Graph) -> list[str]:
    """Private names that one room takes from another."""
    return [
        f"{module}: {name}"
        for module, names in graph.private.items()
        for name in names
        if room(module) != room(name)
    ]


def part_checks(graph: Graph) -> list[str]:
    """Modules that ask whether something is a certain part of another room, instead of what that
    part declares: a part of one's own would be none."""
    return [
        f"{module}: isinstance of {name}"
        for module, names in graph.told_apart.items()
        for name in sorted(names & graph.parts.keys())
        if room(module) != room(graph.parts[name])
    ]


def outside(graph: Graph) -> list[str]:
    """Modules that are in no folder, the package's own included."""
    folders = {room(module) for module in graph.imports if "." in module}
    return [module for module in graph.imports if "." not in module and module not in folders]


def _dotted(package: Path, path: Path) -> str:
    parts = path.relative_to(package).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imported(tree: ast.Module, package: str) -> Iterator[tuple[str, str]]:
    """(module, name) of every import from the package; the name is empty for a module alone."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == package:
                    yield alias.name.removeprefix(package).lstrip("."), ""
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == package:
            for alias in node.names:
                yield (node.module or "").removeprefix(package).lstrip("."), alias.name


def _parts(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        decorators = getattr(node, "decorator_list", ())
        if isinstance(node, ast.ClassDef) and "part" in [getattr(d, "id", "") for d in decorators]:
            yield node.name


def _told_apart(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "isinstance":
            for inner in ast.walk(node.args[1]):
                name = getattr(inner, "id", getattr(inner, "attr", None))
                if name is not None:
                    yield name


def _knots(graph: Mapping[str, frozenset[str] | set[str]]) -> list[list[str]]:
    """The strongly connected components of more than one node (Tarjan 1972)."""
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    knots: list[list[str]] = []

    def visit(node: str) -> None:
        number[node] = low[node] = len(number)
        stack.append(node)
        for target in sorted(graph.get(node, ())):
            if target not in number:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], number[target])
        if low[node] == number[node]:
            at = stack.index(node)
            if len(stack) - at > 1:
                knots.append(sorted(stack[at:]))
            del stack[at:]

    for node in sorted(graph):
        if node not in number:
            visit(node)
    return knots
