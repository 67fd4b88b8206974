"""Command lines that a page shows: taken apart as a shell does, and each parsed by the program that
it is for, without being run."""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from typer.main import get_command

from opsd.cli.commands import app
from opsd.languages.registry import resolve
from opsd.recipe import schema
from opsd.recipe.files import find, launcher, shipped
from opsd.recipe.names import methods
from opsd.suites.loading import suite
from opsd.types import UserError

ROOT = Path(__file__).parents[1]
OTHERS = {
    *("cd", "git", "hf", "pre-commit", "pytest", "sglang", "srun", "tensorboard", "test", "vllm"),
    *("do", "done", "for", "kubectl", "kill", "set", "ray", "scontrol", "sleep", "trap", "wait"),
    *("head", "echo", "."),
}
"""Programs that the package does not bring: of their lines only a shell's syntax is looked at."""
STANDS_IN = "copsd"
"""The recipe that settings are tried on where a page's line names a file that it does not show."""
_SUBSTITUTED = re.compile(r"\\?\$(\(\(.*?\)\)|\([^()]*\))")
_VARIABLE = re.compile(r"\\?\$\w+")
_AND = {"&&", "||", "|", ";", "&"}


def commands(script: str) -> Iterator[list[str]]:
    """The words of every command in a shell's script: those put in another's place come before it,
    those that another one is told to run (`bash -c`, `srun`) after it. `...` is left out."""
    bash = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True)
    assert not bash.returncode, bash.stderr
    inner: list[str] = []

    def substituted(found: re.Match[str]) -> str:
        inside = found[1][1:-1]
        if inside.startswith("("):
            return "1"
        inner.append(inside)
        return "SUBSTITUTED" if inside.startswith("opsd") else ""

    for line in re.sub(r"\\\n\s*", " ", script).splitlines():
        inner.clear()
        line = _VARIABLE.sub("1", _SUBSTITUTED.sub(substituted, line))
        for text in inner:
            yield from commands(text)
        read = shlex.shlex(line, posix=True, punctuation_chars="&|;")
        read.whitespace_split = True
        words: list[str] = []
        for word in [*read, ";"]:
            if word not in _AND:
                words += [] if word == "..." else [word]
                continue
            while words and (words[0] == "export" or re.match(r"\w+=", words[0])):
                words.pop(0)
            if words:
                yield words
            if words[:2] == ["srun", "bash"]:
                yield from commands(words[-1])
            words = []


def parse(words: Sequence[str]) -> None:
    """Parses a command as its program would. Whatever that does not know is raised."""
    program, *given = words
    if program == "opsd":
        parse_opsd(given)
    elif program in ("python", "python3") and given[:1] == ["-m"]:
        parse_module(given[1], given[2:])
    elif program == "accelerate":
        from accelerate.commands.launch import launch_command_parser

        assert given.pop(0) == "launch"
        parse_launched(launch_command_parser(), given)
    elif program == "torchrun":
        from torch.distributed.run import get_args_parser

        parse_launched(get_args_parser(), given)
    elif program in ("pip", "pip3"):
        parse_pip(given)
    else:
        assert program in OTHERS, f"nothing is known of {program}: {shlex.join(words)}"


def parse_launched(parser: argparse.ArgumentParser, given: Sequence[str]) -> None:
    """`-m opsd ...` behind a launcher's own options."""
    found = parser.parse_args(list(given))
    assert found.module and found.training_script == "opsd", given
    parse_opsd(found.training_script_args)


def parse_module(module: str, given: Sequence[str]) -> None:
    """`python -m`: the module is there, and the parser of one of this repository knows what it is
    given."""
    assert importlib.util.find_spec(module), f"there is no module {module}"
    if not given or module.split(".")[0] not in ("tools", "benchmarks", "tests"):
        return
    parse_args = argparse.ArgumentParser.parse_args

    def only_parse(parser: argparse.ArgumentParser, *_: Any) -> None:
        parse_args(parser, list(given))
        raise KeyboardInterrupt

    # It is run anew, which `runpy` warns of otherwise.
    names = (module, f"{module}.__main__")
    imported = {name: sys.modules.pop(name) for name in names if name in sys.modules}
    try:
        with (
            mock.patch.object(argparse.ArgumentParser, "parse_args", only_parse),
            mock.patch.object(sys, "argv", [module, *given]),
        ):
            runpy.run_module(module, run_name="__main__")
    except KeyboardInterrupt:
        return
    finally:
        sys.modules.update(imported)
    raise AssertionError(f"{module} has not parsed its arguments")


def parse_pip(given: Sequence[str]) -> None:
    """`pip install`: files that are named are there, and extras of the package are declared."""
    assert given[0] == "install", given
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    for option, value in itertools.pairwise(given):
        if option == "-c":
            assert (ROOT / value).is_file(), value
        if option == "-e":
            asked = re.fullmatch(r"\.(?:\[([\w,]+)\])?", value)
            assert asked, value
            named = set((asked[1] or "").split(",")) - {""}
            assert named <= extras["optional-dependencies"].keys(), value


def parse_opsd(given: Sequence[str], whole: bool = True) -> None:
    """A command of ours, by its own parser: commands, options and the kinds of their values; then
    what they name. Of one that is not `whole`, arguments and values may be missing."""
    heard: list[tuple[str, dict[str, Any]]] = []
    group = get_command(app)
    listen(group, heard)
    try:
        group.main(args=list(given), prog_name="opsd", standalone_mode=False)
    except Exception as error:
        missing = "Missing " in str(error) or "requires an argument" in str(error)
        if whole or not missing:
            raise AssertionError(f"opsd {shlex.join(given)}: {error}") from error
    for name, values in heard:
        try:
            look_up(name, values)
        except UserError as error:
            raise AssertionError(f"opsd {shlex.join(given)}: {error}") from error


def listen(command: Any, heard: list[tuple[str, dict[str, Any]]]) -> None:
    """Makes a parsed command, and those below it, say what it was given instead of doing it."""

    def callback(**values: Any) -> None:
        heard.append((command.name, values))

    command.callback = callback
    if command.name is None or "install_completion" in {p.name for p in command.params}:
        command.invoke_without_command = True
        for parameter in command.params:
            if parameter.name != "help":
                parameter.callback = None
    for below in getattr(command, "commands", {}).values():
        listen(below, heard)


def look_up(command: str, values: dict[str, Any]) -> None:
    """What a command's values name is there: recipes with their settings, suites, methods,
    languages. A word in capitals stands for whatever the reader has."""
    settings = values.get("set_") or ()
    recipe = values.get("recipe")
    if recipe is not None and not recipe.isupper():
        there = recipe in shipped() or Path(recipe).is_file() or not Path(recipe).suffix
        schema.load(recipe if there else STANDS_IN, settings)
    elif settings:
        schema.load(STANDS_IN, settings)
    if command == "recipes" and known(values["name"]):
        find(values["name"])
    if command in ("methods", "init"):
        named = values["name" if command == "methods" else "method"]
        assert not known(named) or named in methods(), named
    if command == "launcher" and known(values["name"]):
        launcher(values["name"])
    if known(values.get("suite")) and (
        not values["suite"].endswith(".yaml") or Path(values["suite"]).is_file()
    ):
        suite(values["suite"])
    for language in (values.get("language") or "").split(","):
        if known(language) and language not in ("all", "rows") and not language.endswith(".yaml"):
            resolve(language)


def known(name: str | None) -> bool:
    """Whether a name is one of ours, and not a word in capitals that stands for one."""
    return bool(name) and not name.isupper()
