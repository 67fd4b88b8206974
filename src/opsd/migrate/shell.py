"""Reads a shell script as text: its commands, with the script's own variables filled in.

Nothing is run. What only a shell could determine (a command's output, a variable that the script
does not set) stays in a word as it is written, and the word records why.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from opsd.types import UserError


@dataclass(frozen=True)
class Word:
    """A word of a command, and the line that it begins in. `unread` says why its text is not what
    the shell would make of it; None if it is."""

    text: str
    line: int
    unread: str | None = None


@dataclass(frozen=True)
class Command:
    """A command, and the variables that are set at its place."""

    words: tuple[Word, ...]
    environment: Mapping[str, Word] = field(default_factory=dict)


@dataclass(frozen=True)
class Script:
    """The commands of a script in order, and remarks on how it was read, a line each."""

    commands: tuple[Command, ...]
    remarks: tuple[str, ...]


MEND = "--variable"
"""The option that sets a variable."""
_BEFORE = {"then", "do", "else", "{", "!", "time", "exec", "nohup", "if", "while", "until", "elif"}
"""Words that a command may follow."""
_DECLARES = {"export", "local", "declare", "readonly", "typeset"}
_OPENS, _CLOSES = {"if", "case"}, {"fi", "esac"}
_ASSIGNS = re.compile(r"(\w+)\+?=", re.ASCII)
_HERE = re.compile(r"(?<!<)<<-?[ \t]*(['\"]?)(\w+)\1([^\n]*\n)(.*?)^[ \t]*\2[ \t]*$", re.M | re.S)
_VARIABLE = re.compile(
    r"\$(?:(?P<plain>[A-Za-z_]\w*|[0-9@*#?!$-])"
    r"|\{(?P<name>\w+|[@*])(?P<all>\[[@*]\])?(?:(?P<case>\^\^|,,)|:?[-=](?P<default>[^{}]*))?\})",
    re.ASCII,
)
_REDIRECT = re.compile(r"&?[<>]+[&|]?[ \t]*")


def read(text: str, where: str, given: Mapping[str, str] | None = None) -> Script:
    """The commands of a script. `given` variables override those that the script sets.

    Raises UserError for a quote or a bracket that is not closed.
    """
    reader = _Reader(text, where, given or {})
    return Script(tuple(reader.commands()), tuple(reader.remarks))


class _Reader:
    """Reads a script in one pass."""

    def __init__(self, text: str, where: str, given: Mapping[str, str]) -> None:
        self.text, self.where, self.at = _HERE.sub(_blank, text.replace("\r\n", "\n")), where, 0
        self.known = {name: [Word(value, 0)] for name, value in given.items()}
        self.given = frozenset(given)
        self.remarks: list[str] = []
        self.found: list[Command] = []
        self.words: list[Word] = []
        self.word: Word | None = None
        self.array: str | None = None
        self.target = False
        self.depth = 0
        self.counted = (0, 1)
        self.joined = False

    def commands(self) -> list[Command]:
        while self.at < len(self.text):
            self._step()
        if self.array is not None:
            raise self._error("a '(' that is not closed")
        self._end()
        return self.found

    def _step(self) -> None:
        char = self.text[self.at]
        redirect = _REDIRECT.match(self.text, self.at)
        if redirect:
            self._redirect(redirect[0])
        elif char == "\\":
            joins = self.text[self.at + 1 : self.at + 2] == "\n"
            self._add("" if joins else self.text[self.at + 1 : self.at + 2], opens=not joins)
            self.at += 2
        elif char == "'":
            end = self._closing("'", self.at + 1)
            self._add(self.text[self.at + 1 : end])
            self.at = end + 1
        elif char == '"':
            self._quoted()
        elif char in "$`":
            self._expand()
        elif char == "#" and self.word is None:
            end = self.text.find("\n", self.at)
            self.at = len(self.text) if end < 0 else end
        elif char.isspace() and (char != "\n" or self.array is not None):
            self._flush()
            self.at += 1
        elif char in "\n;&|()":
            self._separate(char)
        else:
            self._add(char)
            self.at += 1

    def _separate(self, char: str) -> None:
        pair = self.text[self.at : self.at + 2]
        self.at += 1
        if char == "(" and self.word and re.fullmatch(r"\w+\+?=", self.word.text):
            self.array, self.word, self.words = self.word.text.removesuffix("="), None, []
        elif char == ")" and self.array is not None:
            self._flush()
            name = self.array.removesuffix("+")
            there = self.known.get(name, []) if name != self.array else []
            self._set(name, [*there, *self.words])
            self.array, self.words = None, []
        else:
            self._end()
            if pair in ("&&", "||"):
                self.at += 1
                self.joined = True  # what follows may not be executed

    def _redirect(self, operator: str) -> None:
        if self.word is not None and self.word.text.isdigit():
            self.word = None  # of `2>&1`
        self._flush()
        self.at += len(operator)
        if self.text[self.at : self.at + 1] == "(":
            self.at = self._bracket(self.at) + 1
        else:
            self.target = True

    def _add(self, text: str, unread: str | None = None, opens: bool = True) -> None:
        if self.word is None:
            self.word = Word("", self._line()) if opens else None
        if self.word is not None:
            self.word = replace(
                self.word, text=self.word.text + text, unread=self.word.unread or unread
            )

    def _flush(self) -> None:
        if self.word is not None and not self.target:
            self.words.append(self.word)
        self.target = self.target and self.word is None
        self.word = None

    def _end(self) -> None:
        self._flush()
        words, self.words, self.target = self.words, [], False
        while words and words[0].text in _BEFORE | _OPENS | _CLOSES:
            first = words.pop(0).text
            self.depth += (first in _OPENS) - (first in _CLOSES)
        if words and words[0].text == "for" and len(words) > 3 and words[2].text == "in":
            self._loop(words[1].text, words[3:])
            return
        declares = bool(words) and words[0].text in _DECLARES
        words = [word for word in words[1:] if word.text[:1] != "-"] if declares else words
        own: dict[str, Word] = {}
        while words and (assigned := _ASSIGNS.match(words[0].text)):
            word = words.pop(0)
            own[assigned[1]] = replace(word, text=word.text[assigned.end() :])
        if words and not declares:
            known = {name: values[0] for name, values in self.known.items() if values}
            self.found.append(Command(tuple(words), known | own))
            self.joined = False
            return
        for name, word in own.items():
            self._set(name, [word])
        self.joined = False

    def _loop(self, name: str, words: Sequence[Word]) -> None:
        if name not in self.given and len(words) > 1:
            self.remarks.append(
                f"line {words[0].line}: a loop over {name}; the recipe is for '{words[0].text}';"
                f" for another value: {MEND} {name}=VALUE"
            )
        self._set(name, words[:1])

    def _set(self, name: str, words: Sequence[Word]) -> None:
        """Sets a variable from here on; its words record why it cannot be determined, if so."""
        if name in self.given:
            return
        depends = self.depth or self.joined
        self.known[name] = []
        for word in words:
            why = word.unread
            if depends:
                why = f"{name} is set under a condition"
            if why and MEND not in why:
                why = f"{why if depends else f'{name} is {why}'}: give {MEND} {name}=VALUE"
            self.known[name].append(replace(word, unread=why))

    def _quoted(self) -> None:
        start, self.at = self.at, self.at + 1
        self._add("")
        while self.text[self.at : self.at + 1] != '"':
            if self.at >= len(self.text):
                raise self._error("a quote that is not closed", start)
            char = self.text[self.at]
            if char in "$`":
                self._expand(quoted=True)
            elif char == "\\" and self.text[self.at + 1 : self.at + 2] in ('"', "\\", "$", "`"):
                self._add(self.text[self.at + 1])
                self.at += 2
            elif char == "\\" and self.text[self.at + 1 : self.at + 2] == "\n":
                self.at += 2
            else:
                self._add(char)
                self.at += 1
        self.at += 1

    def _expand(self, quoted: bool = False) -> None:
        """Expands what begins with a `$` or a backtick."""
        found = _VARIABLE.match(self.text, self.at)
        follows = self.text[self.at : self.at + 2]
        if found is not None:
            self.at = found.end()
            self._variable(found, quoted)
            return
        if follows in ("$(", "${"):
            end = self._bracket(self.at + 1)
        elif follows[0] == "`":
            end = self._closing("`", self.at + 1)
        else:  # a plain dollar sign
            self._add("$")
            self.at += 1
            return
        text = self.text[self.at : end + 1]
        why = "which only a shell can expand" if follows == "${" else "which is not run here"
        self._add(text, f"{' '.join(text.split())}, {why}")
        self.at = end + 1

    def _variable(self, found: re.Match[str], quoted: bool) -> None:
        name = found["plain"] or found["name"]
        default = found["default"]
        values = self.known.get(name)
        if values is None and default is not None:
            default = default.strip("'\"")
            values = [
                Word(default, 0, f"'{default}'" if "$" in default or "`" in default else None)
            ]
        if values is None and name in "@*":
            told = "the script's own arguments, is assumed to be empty"
            self.remarks.append(f"line {self._line()}: {found[0]}, {told}")
            values = []
        if values == [] and self.word is not None and not self.word.text:
            self.word = None  # an empty array gives no word, even in quotes
        if values is None:
            self._add(found[0], f"{found[0]} is not set in the script: give {MEND} {name}=VALUE")
            return
        if not found["all"]:
            values = values[:1]
        for i, value in enumerate(values):
            text = {"^^": str.upper, ",,": str.lower}.get(found["case"] or "", str)(value.text)
            whole = quoted or found["all"] or value.unread
            for j, part in enumerate([text] if whole else text.split()):
                if i or j:
                    self._flush()
                self._add(part, value.unread)

    def _closing(self, mark: str, start: int) -> int:
        end = self.text.find(mark, start)
        if end < 0:
            raise self._error("a quote that is not closed", start)
        return end

    def _bracket(self, start: int) -> int:
        """The position where the bracket that opens at `start` closes; brackets in quotes do not
        count."""
        opens = self.text[start]
        closes, depth, at = {"(": ")", "{": "}"}[opens], 0, start
        while at < len(self.text):
            char = self.text[at]
            if char == "\\":
                at += 1
            elif char == "'":
                at = self._closing("'", at + 1)
            depth += (char == opens) - (char == closes)
            if not depth:
                return at
            at += 1
        raise self._error(f"a '{opens}' that is not closed", start)

    def _line(self, at: int | None = None) -> int:
        """The line number of a position; counting continues from the previous position."""
        at = self.at if at is None else at
        before, line = self.counted if at >= self.counted[0] else (0, 1)
        self.counted = at, line + self.text.count("\n", before, at)
        return self.counted[1]

    def _error(self, told: str, at: int | None = None) -> UserError:
        return UserError(f"{self.where}, line {self._line(at)}: {told}")


def _blank(found: re.Match[str]) -> str:
    """A here-document without its body; only the body's line breaks stay."""
    return found[3] + "\n" * (found[4].count("\n"))
