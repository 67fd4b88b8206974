"""The house's own rules: layers and names."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "opsd"
MODULES = sorted(PACKAGE.rglob("*.py"))
NAMES = [str(path.relative_to(PACKAGE)) for path in MODULES]
TREES = {
    name: ast.parse(path.read_text("utf-8")) for name, path in zip(NAMES, MODULES, strict=True)
}
TOP_OF_REPORT = {"cli.py", "miniature/quickstart.py"}


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
    assert len(MODULES) > 40 and "trainer.py" in NAMES


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


def test_only_the_top_imports_the_report():
    users = {
        name
        for name, tree in TREES.items()
        if not name.startswith("report/") and any(within(n, "opsd.report") for n in imports(tree))
    }
    assert users <= TOP_OF_REPORT and users


def test_the_report_reads_run_folders_and_nothing_that_trains():
    trains = (
        "opsd.training.trainer",
        "opsd.training.learner",
        "opsd.objective",
        "opsd.rollout",
        "opsd.teacher",
    )
    for name, tree in TREES.items():
        if name.startswith("report/"):
            assert not any(within(n, part) for n in imports(tree) for part in trains), name


def test_only_the_command_line_imports_the_inspector():
    users = {
        name
        for name, tree in TREES.items()
        if not name.startswith("inspect/") and any(within(n, "opsd.inspect") for n in imports(tree))
    }
    assert users == {"cli.py"}


def test_the_inspector_reads_traces_and_computes_nothing():
    for name, tree in TREES.items():
        if name.startswith("inspect/"):
            own = {n for n in imports(tree) if within(n, "opsd")}
            known = ("inspect", "data", "json_files", "pages", "run", "types", "visible")
            foreign = {n for n in own if n != "opsd.__version__"}
            assert all(any(within(n, f"opsd.{k}") for k in known) for n in foreign - {"opsd"}), name
            assert not any(within(n, "torch") for n in imports(tree)), name


def test_only_the_catalogue_and_the_built_in_world_name_a_method():
    from opsd.methods import FUNCTIONS

    names = FUNCTIONS.keys() - {"opsd"}  # the package's own name as well
    for file, tree in TREES.items():
        if not file.startswith(("methods/", "miniature/")):
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
