"""The pages: links lead somewhere, lists of what there is are complete and fresh."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.house import FLOORS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PACKAGE = ROOT / "src" / "opsd"
LINKED = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
FENCE = re.compile(r"^( *)```(\w+)(?: (\S+))?\n(.*?)^ *```$", re.M | re.S)


@pytest.mark.parametrize("page", LINKED, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings_that_exist(page: Path):
    source = FENCE.sub("", page.read_text("utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", source):
        if "://" in target or target.startswith("mailto:"):
            continue
        name, _, heading = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), f"{page}: {target}"
        if heading:
            assert heading in set(headings(file)), f"{page}: {target}"


def headings(page: Path) -> Iterator[str]:
    """The names that GitHub gives a page's headings in links."""
    for title in re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text("utf-8")), re.M):
        yield re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 150


def test_the_notebook_is_the_tutorial():
    pytest.importorskip("nbformat", reason="notebooks are written with pip install -e '.[test]'")
    from tools.notebook import NOTEBOOK, PAGE, notebook

    made = notebook(PAGE)
    assert NOTEBOOK.read_text("utf-8") == made, "python -m tools.notebook writes another one"
    cells = json.loads(made)["cells"]
    code = "".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    assert "!opsd train mine.yaml" in code and "%%writefile problems.csv" in code
    assert all(cell["source"] for cell in cells)


def test_the_index_names_every_page_once():
    found = re.findall(r"\]\(([^)]+)\)", (DOCS / "index.md").read_text("utf-8"))
    found = [target for target in found if not target.startswith("images/")]
    pages = [str(p.relative_to(DOCS)) for p in DOCS.rglob("*.md") if p.name != "index.md"]
    pages = [page for page in pages if not page.startswith("reference/")]
    assert sorted(found) == sorted([*pages, "reference/index.md"])


def test_the_site_is_built_without_a_warning(tmp_path: Path):
    pytest.importorskip("sphinx", reason="the site is built with pip install -e '.[docs]'")
    options = ["-q", "-n", "-W", "--keep-going", "-b", "dirhtml", "-d", str(tmp_path / "doctrees")]
    made = subprocess.run(
        [sys.executable, "-m", "sphinx", *options, str(DOCS), str(tmp_path / "site")],
        env=os.environ | {"PYTHONPATH": str(ROOT / "src"), "NO_COLOR": "1"},
        capture_output=True,
        text=True,
    )
    assert made.returncode == 0, made.stderr[-4000:]
    assert "On-policy self-distillation" in (tmp_path / "site" / "index.html").read_text("utf-8")


def test_the_picture_and_the_concepts_name_modules_that_exist():
    drawn = re.findall(r'class="where"[^>]*>([\w.]+)<', (DOCS / "images/flow.svg").read_text())
    told = re.findall(r"`opsd\.([a-z_.]+)", (DOCS / "concepts.md").read_text("utf-8"))
    assert len(drawn) > 15 and len(told) > 15
    for module in {*drawn, *(name.rstrip(".") for name in told)} - {"problems.jsonl"}:
        path = PACKAGE / module.replace(".", "/")
        assert path.is_dir() or path.with_suffix(".py").is_file(), module


def test_the_reference_is_what_its_script_writes():
    pytest.importorskip("griffe", reason="griffelib reads the source (pip install -e '.[test]')")
    from tools.reference import FOLDER, pages

    written = {path.name: path.read_text("utf-8") for path in FOLDER.glob("*.md")}
    made = pages()
    stale = sorted(n for n in made.keys() | written.keys() if made.get(n) != written.get(n))
    assert not stale, f"python -m tools.reference writes other pages: {', '.join(stale)}"
    assert sum(len(text.encode()) for text in made.values()) < 600_000


def test_the_tables_are_what_their_script_writes():
    from tools.tables import PAGES, TABLES, filled

    for page in PAGES:
        text = page.read_text("utf-8")
        assert filled(text) == text, f"python -m tools.tables writes another {page.name}"
    texts = "".join(page.read_text("utf-8") for page in PAGES)
    assert all(texts.count(f"<!-- table: {name} -->") == 1 for name in TABLES)


def test_a_table_that_is_stale_is_written_anew_and_one_that_nothing_writes_is_refused():
    from tools.tables import filled

    before = "a\n<!-- table: support -->\n| old |\n<!-- end -->\nb\n"
    after = filled(before)
    assert after.startswith("a\n<!-- table: support -->\n") and after.endswith("<!-- end -->\nb\n")
    assert "| old |" not in after and "`top_k`" in after and filled(after) == after
    with pytest.raises(KeyError):
        filled(before.replace("support", "supports"))


def test_the_contributors_tree_is_the_packages():
    page = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    tree = page.partition("```\nsrc/opsd/\n")[2].partition("```")[0]
    told = re.findall(r"^  (\w+(?:/|\.py)) +\S", tree, re.M)
    private = {"__init__.py", "__main__.py", "__pycache__/"}
    there = {p.name + "/" * p.is_dir() for p in PACKAGE.iterdir()} - private
    assert set(told) == there
    assert [name.removesuffix("/").removesuffix(".py") for name in told] == list(FLOORS)
    for name in re.findall(r"^(\w+)/ +\S", tree, re.M):
        assert (ROOT / name).is_dir(), name


@pytest.mark.parametrize(
    "page", [ROOT / "CONTRIBUTING.md", DOCS / "adding.md"], ids=lambda p: p.stem
)
def test_where_something_is_added_exists(page: Path):
    told = re.findall(r"`([\w/]+(?:/|\.py))`", page.read_text("utf-8"))
    assert len(told) > 10
    for name in told:
        places = [base / name for base in (PACKAGE, ROOT, ROOT / "tests", DOCS)]
        assert any(place.exists() for place in places), f"{page}: {name}"
