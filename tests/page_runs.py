"""Pages of the documentation, run block by block, a small model in the place of a large one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import yaml
from tools.blocks import Block, blocks

ROOT = Path(__file__).parents[1]
MODEL = "Qwen/Qwen3-1.7B"
"""The model that running pages name; the built-in one stands in for it."""
ONE_STEP = {"train": "--set train.max_steps=1"}
"""Options, by command, that make a page short whose recipes are for the built-in model."""
SHORT = {
    "train": "--set train.max_steps=2 --set train.rollouts_per_step=8 --set train.save_steps=2"
    " --set train.use_cpu=true --set train.eval_samples=1 --set sampling.max_completion_length=16",
    "evaluate": "--samples 1 --budget 8",
}
"""The same of a page whose recipe is for a large model: two steps of eight short rollouts."""

DRIVER = """
import json, os, pathlib, sys, traceback
from opsd.cli.commands import app
from opsd.recipe import schema
from tests.command_lines import commands
from tests.faults.processes import prepare


def run(blocks, less):
    names = {"__name__": "__page__"}
    for block in blocks:
        where = "\\n" * block["line"]
        if block["file"] and block["kind"] == "recipe":
            schema.load(block["file"])
        elif block["kind"] == "python" and not block["file"]:
            exec(compile(where + block["text"], block["page"], "exec"), names)
        elif block["kind"] == "sh":
            for command, *given in commands(block["text"]):
                assert command == "opsd", given
                print("$ opsd", *given, flush=True)
                given += less.get(given[0], [])
                assert not app(given, standalone_mode=False), given
                if given[0] == "train":
                    log = pathlib.Path("runs", pathlib.Path(given[1]).stem, "metrics.jsonl")
                    assert "loss" in log.read_text(), given


def become(folder, blocks, less):
    code = 1
    try:
        os.chdir(folder)
        for stream, file in ((1, "stdout.txt"), (2, "stderr.txt")):
            os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), stream)
        run(blocks, less)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


prepare()
for folder, page in json.load(sys.stdin).items():
    child = os.fork()
    if child == 0:
        become(folder, page["blocks"], page["less"])
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    pathlib.Path(folder, "code.txt").write_text(str(code))
"""
"""Runs pages' blocks in order, each page in its folder and in a process of its own, forked from one
that has imported everything: Python, recipes (loaded), commands."""


def read(page: Path) -> Iterator[Block]:
    """A page's blocks. A YAML one that says model, method and data is a recipe, a `.csv` file is a
    table: the highlighter knows no such language, so the page calls it text."""
    for block in blocks(page):
        if block.file and block.file.endswith(".csv"):
            block = replace(block, kind="csv")
        if (
            block.kind == "yaml"
            and {"model", "method", "data"} <= yaml.safe_load(block.text).keys()
        ):
            block = replace(block, kind="recipe")
        yield block


def write_files(page: Sequence[Block], folder: Path) -> None:
    """Writes a page's files to a folder."""
    for block in page:
        if block.file:
            (folder / block.file).write_text(block.text, "utf-8")


def run_pages(
    folder: Path,
    pages: Mapping[Path, Mapping[str, str]],
    instead: Mapping[str, str],
    environment: Mapping[str, str],
) -> None:
    """Runs pages, each in a folder of its name, with options for their commands. `instead` is what
    stands in the place of texts of theirs."""
    shown = {}
    for page, less in pages.items():
        own = folder / page.stem
        own.mkdir()
        made = [replace(block, text=_replaced(block.text, instead)) for block in read(page)]
        write_files(made, own)
        options = {command: text.split() for command, text in less.items()}
        shown[str(own)] = {"blocks": [asdict(block) for block in made], "less": options}
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:opsd", "-c", DRIVER],
        input=json.dumps(shown),
        cwd=folder,
        env=os.environ | {"PYTHONPATH": paths, **environment},
        text=True,
        timeout=1800,
        check=True,
    )


def ended_well(folder: Path) -> None:
    """Fails with what a page's process wrote last, where it did not end well."""
    errors = (folder / "stderr.txt").read_text("utf-8")
    assert (folder / "code.txt").read_text() == "0", errors[-3000:]


def _replaced(text: str, instead: Mapping[str, str]) -> str:
    for this, that in instead.items():
        text = text.replace(this, that)
    return text
