"""Every block of code on a page is run, or read by what it is meant for; none is only printed."""

from __future__ import annotations

import ast
import csv
import importlib
import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from tests.command_lines import commands, parse, parse_opsd
from tests.fake_hub import TOKENS, Hub, Repository, serving
from tests.page_runs import MODEL, ONE_STEP, SHORT, ended_well, read, run_pages, write_files
from tests.translate.server import serving as serving_translations
from tools.blocks import INDENTED, Block, spans
from typer.main import get_command

from opsd.cli.commands import app
from opsd.languages import registry
from opsd.lm.built_in import resolve as model_folder
from opsd.recipe import schema
from opsd.recipe.content import extended
from opsd.suites.loading import suite

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [
    *(ROOT / "README.md", ROOT / "CONTRIBUTING.md"),
    *(page for page in sorted(DOCS.rglob("*.md")) if page.parent.name != "reference"),
]
"""All but the generated reference, whose examples are doctests of the modules they stand in."""
TUTORIAL = DOCS / "tutorial.md"
RUN = [
    TUTORIAL,
    *(DOCS / f"{name}.md" for name in ("command-line", "concepts", "migrating")),
    *sorted((DOCS / "how-to").glob("*.md")),
]
"""Pages that run, block by block, on the built-in model. The others' commands would take hours, a
GPU, a hub or a cluster."""
TOKEN = next(iter(TOKENS))
BASE_MODEL = f"{TOKENS[TOKEN]}/base"
"""What the built-in model is called on the hub, in the place of `MODEL`."""
ENDPOINT = "http://localhost:8000/v1"
"""The endpoint that pages name; one of ours stands in for it."""
BASE = {"model": "miniature", "method": "copsd", "data": {"source": "miniature"}}
"""What a page's piece of a recipe is laid over."""
NOT_RUN = {"launch", "quickstart", "reproduce", "serve-teacher"}
"""Commands that take minutes or hours, or run until they are ended, and have tests of their own."""


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    """A hub that has the built-in model under the name of somebody's."""
    files = Path(model_folder("miniature")).iterdir()
    with serving() as running:
        content = {file.name: file.read_bytes() for file in files if file.is_file()}
        running.repositories[BASE_MODEL] = Repository(commits=[content])
        yield running


@pytest.fixture(scope="module")
def ran(tmp_path_factory, hub) -> Path:
    """The folder in which every page's blocks have run, each page's in one of its name."""
    folder = tmp_path_factory.mktemp("pages")
    less = {page: SHORT if page == TUTORIAL else ONE_STEP for page in RUN}
    environment = {
        "HF_ENDPOINT": hub.address,
        "HF_HOME": str(folder / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_TOKEN": TOKEN,
    }
    with serving_translations() as endpoint:
        instead = {MODEL: BASE_MODEL, "ME/": f"{TOKENS[TOKEN]}/", ENDPOINT: endpoint.url}
        run_pages(folder, less, instead, environment)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN, ids=lambda page: page.stem)
def test_what_a_page_shows_runs(page: Path, ran: Path):
    shown = list(read(page))
    assert {"sh", "python", "recipe"} & {block.kind for block in shown}
    ended_well(ran / page.stem)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_shows_can_be_read_by_what_it_is_for(page: Path, tmp_path, monkeypatch):
    shown = list(read(page))
    write_files(shown, tmp_path)
    monkeypatch.chdir(tmp_path)
    for block in shown:
        kind = block.kind.split("{")[0] or block.kind
        assert kind in KINDS, f"{page}:{block.line}: what is a block of {kind}?"
        try:
            KINDS[kind](block)
        except Exception as error:
            raise AssertionError(f"{page}:{block.line}: {error}") from error
    for line in spans(page):
        if line.startswith("opsd ") and "[" not in line:
            for words in commands(line):
                parse_opsd(words[1:], whole=False)


@pytest.mark.slow
def test_the_tutorial_shows_the_recipe_that_it_writes(ran: Path):
    (shown,) = (b.text for b in read(TUTORIAL) if b.kind == "recipe")
    text = (ran / "tutorial" / "mine.yaml").read_text("utf-8")
    assert text == shown.replace(MODEL, BASE_MODEL)


@pytest.mark.slow
def test_the_tutorial_pushes_the_adapter_that_it_exports(ran: Path, hub: Hub):
    pushed = hub.files(f"{TOKENS[TOKEN]}/mine")
    own = (ran / "tutorial" / "mine-adapter" / "adapter_model.safetensors").read_bytes()
    assert pushed["adapter_model.safetensors"] == own
    about = json.loads(pushed["adapter_config.json"])
    assert about["base_model_name_or_path"] == BASE_MODEL
    assert hub.repositories[f"{TOKENS[TOKEN]}/mine"].private and hub.unknown == []


def test_every_command_is_run_by_a_page_or_takes_too_long():
    names, parsed, run = set(get_command(app).commands), set(), set()
    for page in PAGES:
        for block in read(page):
            if block.kind in ("sh", "bash", INDENTED):
                told = {words[1] for words in commands(block.text) if words[0] == "opsd"} & names
                parsed |= told
                run |= told if page in RUN and block.kind == "sh" else set()
    assert parsed == names and names - run == NOT_RUN


def script(block: Block) -> None:
    """Every command is known, and has options that it knows."""
    for words in commands(block.text):
        parse(words)


def python(block: Block) -> None:
    """It compiles, and what it imports is there."""
    tree = ast.parse(block.text)
    own = {path.stem for path in Path().glob("*.py")}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                importlib.import_module(name.name)
        elif isinstance(node, ast.ImportFrom) and node.module not in own:
            module = importlib.import_module(node.module or "")
            for name in node.names:
                assert hasattr(module, name.name), f"{node.module} has no {name.name}"


def recipe(block: Block) -> None:
    if block.file:
        schema.load(block.file)
    else:
        schema.parse(yaml.safe_load(block.text))


def piece(block: Block) -> None:
    """A file of a language or a suite, by its name; else pieces of a recipe, each key by itself,
    since a page may show one several times, as alternatives."""
    if block.file:
        found = yaml.safe_load(block.text)
        assert registry.check(block.file) == [] if "code" in found else suite(block.file)
        return
    for text in re.split(r"^(?=[^\s#])", block.text, flags=re.M):
        child = yaml.safe_load(text)
        if child and "extends" not in child:
            schema.parse(extended(BASE, child))


def rows(block: Block) -> None:
    for line in block.text.splitlines():
        json.loads(line)


def table(block: Block) -> None:
    lengths = [len(row) for row in csv.reader(io.StringIO(block.text))]
    assert len(lengths) > 1 and len(set(lengths)) == 1


def only_read(block: Block) -> None:
    """Formulas, trees, and what a command has printed."""


KINDS: dict[str, Callable[[Block], None]] = {
    "sh": script,
    "bash": script,
    INDENTED: script,
    "python": python,
    "recipe": recipe,
    "yaml": piece,
    "json": rows,
    "csv": table,
    "text": only_read,
    "{toctree}": only_read,
}
"""What becomes of a block that is not run, by its kind. There is no other kind."""
