"""Finds the launch of a known program in a script or a configuration file."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from opsd.migrate.shell import MEND, Command, Word, read
from opsd.migrate.sources import LAUNCHERS, Source, programs, source, sources
from opsd.types import UserError
from opsd.validation import LONGEST, mapping

STARTER = "launcher"
"""The key of a launcher's own name among its flags."""
_CONFIG = ("config", "config_file")
"""Flags of programs that read their other flags from a file."""
_ASIDE = {"echo", "printf", "ls", "cat", "test", "[", "[[", "cp", "mv", "rm", "cd", "grep", "sed"}
"""Commands that may name a program without starting it."""
_FLAG = re.compile(r"--?([A-Za-z_][\w.-]*)(?:=(.*))?", re.S)
_SETTING = re.compile(r"([A-Za-z_][\w.]*)=(.*)", re.S)


@dataclass(frozen=True)
class Given:
    """The value given for a flag: words of a command line, or a value in a file."""

    value: Any
    where: str
    spelled: str
    unread: str | None = None

    def read(self) -> Any:
        """The value. UserError if only a shell could determine it."""
        if self.unread:
            mend = "" if MEND in self.unread else "; write its value there"
            raise UserError(f"{self.where}: {self.spelled}: {self.unread}{mend}")
        return self.value


@dataclass(frozen=True)
class Launch:
    """The start of a program: the program's project, the flags before it (its launcher's) and after
    it, and remarks on how the script was read, a line each."""

    source: Source
    program: str
    launcher: Mapping[str, Given]
    flags: Mapping[str, Given]
    remarks: tuple[str, ...] = ()


def find(path: Path, asked: str | None, variables: Mapping[str, str]) -> Launch:
    """The launch in a file. `asked` names the project, if it is not clear from the file.

    Raises UserError for a file that is not a text or has no launch of a known program, and for
    parts of a script that cannot be read.
    """
    if path.suffix in (".yaml", ".yml"):
        return _configured(path, asked)
    script = read(_text(path), str(path), variables)
    found = list(_launched(script.commands, asked, path))
    if not found:
        known = ", ".join(p for own in programs().values() for p in own.programs)
        raise UserError(
            f"{path}: no launch command found (known programs: {known}); for another program,"
            " name a similar project with --source"
        )
    first, *others = found
    remarks = [*script.remarks, *first.remarks]
    remarks += [f"another launch, of {other.program}, is ignored" for other in others]
    return replace(first, remarks=tuple(remarks))


def _text(path: Path) -> str:
    try:
        with path.open(encoding="utf-8-sig") as file:
            text = file.read(LONGEST + 1)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a text in UTF-8: give a launch script or a .yaml") from error
    if len(text) > LONGEST or "\0" in text:
        raise UserError(f"{path}: not a launch script: too long, or not a text")
    return text


def _configured(path: Path, asked: str | None) -> Launch:
    flags = _flags_of(path)
    if {"model", "method", "data"} <= flags.keys():
        raise UserError(f"{path} is a recipe already: opsd train {path}")
    plain = {name: given.value for name, given in flags.items()}
    fit = [name for name, own in programs().items() if _marked(own, plain)]
    if asked is None and len(fit) != 1:
        known = ", ".join(fit or programs())
        raise UserError(f"{path}: which project's configuration? add --source, one of {known}")
    name = asked or fit[0]
    return Launch(source(name), path.name, {}, flags)


def _marked(own: Source, flags: Mapping[str, Any]) -> bool:
    only = all(flags.get(name) == value for name, value in own.only.items())
    return only and any(name in flags for name in (*own.marks, *own.only))


def _launched(commands: Sequence[Command], asked: str | None, path: Path) -> Iterator[Launch]:
    for command in commands:
        at = _program(command.words, asked)
        if at is None or command.words[0].text in _ASIDE:
            continue
        before, program, after = command.words[:at], command.words[at], command.words[at + 1 :]
        flags = _flags(after, path)
        for name in _CONFIG:
            if name in flags and str(flags[name].value).endswith((".yaml", ".yml")):
                flags = _flags_of(path.parent / flags.pop(name).read()) | flags
        name = asked or _owner(before, program, flags)
        if name is not None:
            launcher = {key: _given([w], _at(path, w), key) for key, w in _own(command)}
            started = _starter(before)
            launcher |= {STARTER: Given(started, str(path), started), **_flags(before, path)}
            yield Launch(source(name), program.text, launcher, flags)


def _own(command: Command) -> Iterator[tuple[str, Word]]:
    """Yields the variables of a command's environment that a launcher reads."""
    known = sources()[LAUNCHERS].flags
    for name, word in command.environment.items():
        if name in known and not word.unread:
            yield name, word


def _starter(before: Sequence[Word]) -> str:
    """The name of the launcher that starts a program: a known one, or plain Python."""
    names = [Path(word.text).name for word in before]
    return next((name for name in names if name in sources()[LAUNCHERS].marks), "python")


def _program(words: Sequence[Word], asked: str | None) -> int | None:
    """The index of the word in a command that is the training program."""
    for i, word in enumerate(words):
        if any(_is(own, words[:i], word) for own in programs().values()):
            return i
    if asked is None:
        return None
    own = source(asked)
    for i, word in enumerate(words):
        module = i and words[i - 1].text == "-m"
        if module or word.text.endswith(".py") or _is(own, words[:i], word):
            return i
    return None


def _is(own: Source, before: Sequence[Word], word: Word) -> bool:
    pair = f"{Path(before[-1].text).name} {word.text}" if before else ""
    called = (Path(word.text).name, word.text, pair)
    return any(fnmatchcase(name, pattern) for name in called for pattern in own.programs)


def _owner(before: Sequence[Word], word: Word, flags: Mapping[str, Given]) -> str | None:
    plain = {name: given.value for name, given in flags.items()}
    for name, own in programs().items():
        only = all(plain.get(flag) == value for flag, value in own.only.items())
        if only and _is(own, before, word):
            return name
    return None


def _at(path: Path, word: Word) -> str:
    return f"{path}, line {word.line}"


def _flags_of(path: Path) -> dict[str, Given]:
    return {
        str(name).replace("-", "_"): Given(
            scalar(value) if isinstance(value, str) else value, str(path), f"{name}:"
        )
        for name, value in mapping(path).items()
    }


def _flags(words: Sequence[Word], path: Path) -> dict[str, Given]:
    """The flags among words: `--name value...`, `--name=value` or `name=value`; other words are
    ignored. UserError for a word that may contain flags but cannot be read."""
    found: dict[str, list[Word]] = {}
    where: dict[str, Word] = {}
    spelled: dict[str, str] = {}
    name = None
    for word in words:
        text = word.text
        number = re.fullmatch(r"-[\d.].*", text)
        flag = None if number else _FLAG.fullmatch(text)
        setting = _SETTING.fullmatch(text) if name is None else None
        if flag or setting:
            key, value = (flag or setting).groups()  # pyright: ignore
            name = key.replace("-", "_")
            found[name], where[name] = [], word
            spelled[name] = text.partition("=")[0] if flag else f"{key}="
            if value is not None:
                found[name] = [Word(value, word.line, word.unread)]
                name = None
        elif name is not None:
            found[name].append(word)
        elif word.unread:
            mend = "" if MEND in word.unread else "; write its value instead"
            raise UserError(f"{_at(path, word)}: {word.unread}{mend}")
    return {key: _given(own, _at(path, where[key]), spelled[key]) for key, own in found.items()}


def _given(words: Sequence[Word], where: str, spelled: str) -> Given:
    values = [scalar(word.text) for word in words]
    unread = next((word.unread for word in words if word.unread), None)
    return Given(values[0] if len(values) == 1 else values or True, where, spelled, unread)


def scalar(text: str) -> Any:
    """The value of a word of a command line: a number, a bool, None, or a text.

    >>> [scalar(text) for text in ("5e-6", "8", "False", "None", "q_proj")]
    [5e-06, 8, False, None, 'q_proj']
    """
    if text.startswith("{"):
        try:
            return json.loads(text)
        except ValueError:
            return text
    plain = {"true": True, "false": False, "none": None, "null": None}
    if text.lower() in plain:
        return plain[text.lower()]
    for kind in (int, float):
        if re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", text, re.I | re.A):
            try:
                return kind(text)
            except ValueError:
                continue
    return text
