"""The house's own rules: rooms, imports and names."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests import house

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "opsd"
MODULES = sorted(PACKAGE.rglob("*.py"))
NAMES = [str(path.relative_to(PACKAGE)) for path in MODULES]
TREES = {
    name: ast.parse(path.read_text("utf-8")) for name, path in zip(NAMES, MODULES, strict=True)
}
GRAPH = house.read(PACKAGE)


def imports(tree: ast.Module) -> Iterator[str]:
    """Every module that a file imports, also inside functions; `from a import b` gives both."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def test_the_rules_look_at_the_package():
    assert len(MODULES) > 40 and "training/trainer.py" in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_module_says_what_it_is(name: str):
    path = PACKAGE / name
    assert ast.get_docstring(TREES[name]), f"{path} has no docstring"


@pytest.mark.parametrize("name", NAMES)
def test_a_package_has_at_most_two_levels_and_no_catch_all(name: str):
    parts = Path(name).with_suffix("").parts
    assert len(parts) <= 2
    assert not {"utils", "util", "core", "common", "base", "manager", "helpers"} & set(parts)


def test_the_objective_knows_only_torch():
    for name, tree in TREES.items():
        if name.startswith("objective/"):
            foreign = {n.partition(".")[0] for n in imports(tree)}
            assert not foreign & {"transformers", "peft", "accelerate", "datasets"}, name


def test_the_nouns_import_nothing_of_ours_and_no_torch():
    seen = list(imports(TREES["types.py"]))
    assert seen and not any(within(n, "opsd") or within(n, "torch") for n in seen)


def test_no_circle_of_files_or_folders():
    assert not house.circles(GRAPH)


def test_no_room_imports_upwards():
    assert not house.upward(GRAPH)
    assert {house.room(name) for name in GRAPH.imports} - {"", "__main__"} == set(house.FLOORS)


def test_no_room_takes_a_private_name_of_another():
    assert not house.strangers(GRAPH)


def test_few_modules_are_in_no_folder():
    assert len(house.outside(GRAPH)) <= 8


def test_nobody_asks_whether_something_is_a_certain_part():
    assert len(GRAPH.parts) > 60 and not house.part_checks(GRAPH)


PLANTED = {
    "a circle of files": (
        {
            "objective/one.py": "from opsd.objective import two",
            "objective/two.py": "import opsd.objective.one",
        },
        house.circles,
        "objective.one <-> objective.two",
    ),
    "a circle for type checking alone": (
        {
            "objective/one.py": "if TYPE_CHECKING:\n    from opsd.objective.two import Two",
            "objective/two.py": "def f():\n    from opsd.objective.one import One",
        },
        house.circles,
        "objective.one <-> objective.two",
    ),
    "a circle of folders": (
        {
            "grade/one.py": "from opsd.lm.two import x",
            "lm/two.py": "",
            "lm/three.py": "from opsd.grade.four import y",
            "grade/four.py": "",
        },
        house.circles,
        "grade <-> lm",
    ),
    "an import upwards": (
        {"grade/one.py": "from opsd.training.two import x", "training/two.py": ""},
        house.upward,
        "grade.one -> training.two",
    ),
    "a room that nobody knows": (
        {"training/one.py": "from opsd.attic.two import x", "attic/two.py": ""},
        house.upward,
        "training.one -> attic.two",
    ),
    "a private name": (
        {"training/one.py": "from opsd.grade.two import _x", "grade/two.py": ""},
        house.strangers,
        "training.one: grade.two._x",
    ),
    "a part told by its class": (
        {
            "prompts/one.py": "@part\nclass Hint:\n    x: int",
            "training/two.py": "from opsd.prompts import one\nisinstance(x, int | one.Hint)",
        },
        house.part_checks,
        "training.two: isinstance of Hint",
    ),
    "a module in no folder": ({"utils.py": "", "grade/one.py": ""}, house.outside, "utils"),
}


@pytest.mark.parametrize("planted", PLANTED)
def test_a_planted_violation_is_found(planted: str, tmp_path: Path):
    files, rule, found = PLANTED[planted]
    package = tmp_path / "opsd"
    for name, text in files.items():
        file = package / name
        file.parent.mkdir(parents=True, exist_ok=True)
        (file.parent / "__init__.py").touch()
        file.write_text(text, "utf-8")
    assert found in rule(house.read(package))


def test_pages_are_made_from_run_folders_alone():
    trains = ("training", "recipe", "objective", "rollout", "teacher", "authors", "lm", "methods")
    for name in ("report", "inspect"):
        for module, targets in GRAPH.imports.items():
            if house.room(module) == name:
                assert not [t for t in targets if house.room(t) in trains], module


def test_the_inspector_computes_nothing():
    for name, tree in TREES.items():
        if name.startswith("inspect/"):
            assert not any(within(n, "torch") for n in imports(tree)), name


def test_only_the_catalogue_and_the_experiments_name_a_method():
    from opsd.methods import FUNCTIONS

    names = FUNCTIONS.keys() - {"opsd"}  # the package's own name as well
    for file, tree in TREES.items():
        if not file.startswith(("methods/", "experiments/")):
            nodes = list(ast.walk(tree))
            words = {node.value for node in nodes if isinstance(node, ast.Constant)}
            words |= {node.id for node in nodes if isinstance(node, ast.Name)}
            assert not words & names, file


def test_trl_is_no_part_of_the_package():
    assert not any(within(n, "trl") for tree in TREES.values() for n in imports(tree))


TEXTS = [
    path
    for folder in ("src", "tests", "recipes", "examples", "benchmarks", "docs", ".ci")
    for path in sorted((ROOT / folder).rglob("*"))
    if path.suffix in {".py", ".yaml", ".md", ".jinja", ".toml", ".css", ".js", ""}
    and path.is_file()
] + sorted(ROOT.glob("*.md"))


def test_no_file_names_a_place_on_somebodys_machine():
    marks = ["/" + place + "/" for place in ("root", "home", "Users", "work")]
    for path in TEXTS:
        text = path.read_text("utf-8")
        assert not [mark for mark in marks if mark in text], path
