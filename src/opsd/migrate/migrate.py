"""Converts a launch into a recipe, with remarks on flags that mean something else here."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from opsd.credentials import HIDDEN, cleaned, without_credentials
from opsd.migrate.launches import Given, Launch, find
from opsd.migrate.sources import LAUNCHERS, Case, Flag, sources
from opsd.recipe.content import Sampling
from opsd.recipe.names import train_keys
from opsd.recipe.schema import parse
from opsd.training.config import UNSUPPORTED, WITHOUT_EFFECT
from opsd.types import UserError
from opsd.validation import near

CHANGED, DEAD, ALWAYS, NONE, UNKNOWN = (
    "changed",
    "did nothing there",
    "always so here",
    "no counterpart",
    "unknown",
)
"""The kinds of remarks on flags."""
PROCESSES = "processes"
_PASSES = "gradient_accumulation_steps"
_ORDER = ("model", "method", "data", "sampling", "engine", "verifier", "train")
_SHOWN = 80
"""How many characters of a flag's value a remark quotes."""


_NONE_GIVEN: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class Remark:
    """A line on a flag as it was given, or, without a flag, on the migration as a whole."""

    kind: str
    flag: str
    why: str

    def __str__(self) -> str:
        return _line(f"{self.flag}: {self.kind}: {self.why}" if self.flag else self.why)


Others = Callable[[str, str, Any], Remark | None]
"""Handles a flag without a rule: its name, its displayed form, its value -> a remark, or None."""


@dataclass(frozen=True)
class Migrated:
    """A recipe's keys and values, and a remark for everything that differs."""

    recipe: dict[str, Any]
    remarks: tuple[Remark, ...]
    about: str

    @property
    def text(self) -> str:
        """The recipe as a file; the remarks are its first lines."""
        lines = [_line(self.about), *map(str, self.remarks)]
        body = yaml.safe_dump(
            self.recipe, sort_keys=False, allow_unicode=True, default_flow_style=None, width=100
        )
        return "".join(f"# {line}\n" for line in lines) + body


def migrate(
    path: Path, asked: str | None = None, variables: Mapping[str, str] = _NONE_GIVEN
) -> Migrated:
    """The recipe of a launch script, or of a program's configuration file.

    `asked` is the file's project, if it is not clear from the file; `variables` are those that the
    script does not set. The recipe is validated before it is returned.

    Raises UserError, one line, for a file that cannot be read or has no launch, and for values that
    are not valid in a recipe.
    """
    launch = find(path, asked, variables)
    made = _Migration(launch).done()
    parse(made.recipe, f"{path}, as a recipe")
    return made


class _Migration:
    """The conversion of one launch into a recipe."""

    def __init__(self, launch: Launch) -> None:
        own = launch.source
        self.launch = launch
        self.recipe: dict[str, Any] = deepcopy(own.recipe)
        self.remarks = [Remark(CHANGED, "", note) for note in launch.remarks]
        self.around: dict[str, Any] = {}
        _Flags(launch.launcher, sources()[LAUNCHERS].flags).fill(self.around, self.remarks)
        self.flags = _Flags(launch.flags, own.flags, {PROCESSES: self._processes()})

    def done(self) -> Migrated:
        own = self.launch.source
        self.flags.fill(self.recipe, self.remarks, self._of_the_trainer if own.trainer else None)
        self._rollouts()
        self.remarks += [Remark(CHANGED, "", note) for note in own.notes]
        method = self.recipe.get("method")
        if isinstance(method, dict) and method.keys() == {"name"}:
            self.recipe["method"] = method["name"]
        kept = {key: self.recipe[key] for key in _ORDER if key in self.recipe}
        about = f"{self.launch.program} ({own.about}), by opsd migrate."
        return Migrated(without_credentials(kept), tuple(self.remarks), about)

    def _processes(self) -> int | None:
        processes = self.around.get(PROCESSES)
        return None if processes is None else processes * self.around.get("nodes", 1)

    def _of_the_trainer(self, name: str, shown: str, value: Any) -> Remark | None:
        """Handles a flag of `TrainingArguments`, which is also a field of `OPSDConfig`."""
        if name not in train_keys() - set(Sampling.model_fields):
            return Remark(UNKNOWN, shown, f"not carried over{near(name, self.flags.rules)}")
        ignored = {n: why for names, why in WITHOUT_EFFECT.items() for n in names.split()}
        why = (UNSUPPORTED | ignored).get(name)
        if why is None:
            _put(self.recipe, f"train.{name}", value)
        return Remark(NONE, shown, why) if why and value not in (None, False, "no") else None

    def _rollouts(self) -> None:
        """Sets how many rollouts a step has, over all processes, if their number is known."""
        factors = {name: self.flags.value(name) for name in self.launch.source.rollouts}
        if not factors:
            return
        missing = [name for name, factor in factors.items() if not isinstance(factor, int)]
        if not missing:
            _put(self.recipe, "train.rollouts_per_step", math.prod(factors.values()))
            return
        passes = factors.get(_PASSES)
        if passes is not None:
            _put(self.recipe, f"train.{_PASSES}", passes)
        told = f"not given: {', '.join(missing)}; set train.rollouts_per_step, for all processes"
        self.remarks.append(Remark(CHANGED, "", f"{told}, instead of train.{_PASSES}"))


class _Flags:
    """The given flags, and the rules for them; `known` values do not come from flags."""

    def __init__(
        self,
        given: Mapping[str, Given],
        rules: Mapping[str, Flag],
        known: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self.given, self.rules, self.known = given, rules, known

    def fill(
        self, recipe: dict[str, Any], remarks: list[Remark], others: Others | None = None
    ) -> None:
        """Writes the flags' values into a recipe, and differences into the remarks; `others`
        handles flags without a rule."""
        named = {self._rule(name) for name in self.given}
        for name, rule in self.rules.items():
            if name in self.given or (rule.default is not None and name not in named):
                remarks += self._remarks(name, name, recipe)
        for name, given in self.given.items():
            rule = self._rule(name)
            if rule is None and given.unread:
                remarks.append(Remark(UNKNOWN, self._shown(name), f"not read: {given.unread}"))
            elif rule is None and others is not None:
                found = others(name, self._shown(name), given.value)
                remarks += [found] if found else []
            elif rule is None:
                why = f"not carried over{near(name, self.rules)}"
                remarks.append(Remark(UNKNOWN, self._shown(name), why))
            elif rule != name:
                remarks += self._remarks(name, rule, recipe)

    def value(self, name: str) -> Any:
        """A flag's given value, else its default. UserError for a value that cannot be read."""
        if name in self.known:
            return self.known[name]
        if name in self.given:
            return self.given[name].read()
        return self.rules[name].default if name in self.rules else None

    def _rule(self, name: str) -> str | None:
        """The name or the pattern of a flag's rule; None if there is none."""
        if name in self.rules:
            return name
        return next((rule for rule in self.rules if fnmatchcase(name, rule)), None)

    def _remarks(self, name: str, rule: str, recipe: dict[str, Any]) -> Iterator[Remark]:
        case = next((case for case in self.rules[rule].cases if self._holds(case)), None)
        shown, given = self._shown(name), name in self.given
        if case is None:
            case = Case(none="not in this combination")
        for kind, why in ((DEAD, case.dead), (ALWAYS, case.always), (NONE, case.none)):
            if why is not None:
                yield from [Remark(kind, shown, why)] if given else []
                return
        if case.to is not None:
            written = self._written(case, self.value(name), _at(recipe, case.to), name)
            if written is _NO_SUCH:
                yield Remark(NONE, shown, "not of this value")
                return
            if written is not None:
                _put(recipe, case.to, written)
        if case.why is not None:
            yield Remark(CHANGED, shown, case.why)

    def _holds(self, case: Case) -> bool:
        return all(self._is(self.value(flag), wanted) for flag, wanted in case.when.items())

    def _is(self, value: Any, wanted: Any) -> bool:
        if isinstance(wanted, list):
            return any(self._is(value, one) for one in wanted)
        if isinstance(wanted, str) and wanted.startswith("$"):
            wanted = self.value(wanted[1:])
        return _key(value) == _key(wanted)

    def _written(self, case: Case, value: Any, there: Any, name: str) -> Any:
        if value is not None and case.change is not None:
            try:
                value = _CHANGES[case.change](value)
            except TypeError as error:
                where = self.given[name].where
                raise UserError(f"{where}: {self._shown(name)}: not a number") from error
        made = value if case.value is None else case.value
        if case.values:
            table = {_key(key): entry for key, entry in case.values.items()}
            number = isinstance(value, int | float) and not isinstance(value, bool)
            keys = [_key(value), *(["positive"] if number and value > 0 else []), "other"]
            made = next((table[key] for key in keys if key in table), _NO_SUCH)
        return made if made is value else self._filled(made, value, there)

    def _filled(self, made: Any, value: Any, there: Any) -> Any:
        """What a rule writes, with `$` names replaced by their values."""
        if isinstance(made, dict):
            return {key: self._filled(inner, value, there) for key, inner in made.items()}
        if isinstance(made, list):
            filled = [self._filled(inner, value, there) for inner in made]
            spliced = (x if y == "$there" else [x] for x, y in zip(filled, made, strict=True))
            return [x for part in spliced for x in part or ()]
        if made == "$value":
            return value
        if made == "$there":
            return there
        if isinstance(made, str) and made.startswith("$value/"):
            return made.replace("$value", str(value), 1)
        if isinstance(made, str) and made.startswith("$"):
            return self.value(made[1:])
        return made

    def _shown(self, name: str) -> str:
        """A flag and its value as given, without credentials."""
        if name not in self.given:
            value = self.rules[name].default
            return f"{name} (not given: {_text(value)})"
        given = self.given[name]
        text = "" if given.value is True else cleaned(_text(given.value))
        hidden = not without_credentials({name: text})
        gap = "" if given.spelled.endswith("=") else " "
        return f"{given.spelled}{gap}{HIDDEN if hidden else text[:_SHOWN]}".strip()


_NO_SUCH = object()
_CHANGES: dict[str, Callable[[Any], Any]] = {
    "lower": lambda value: str(value).lower(),
    "complement": lambda value: round(1 - value, 12),
    "count": lambda value: len(str(value).split(",")),
}


def _line(text: str) -> str:
    """A text on one line, without credentials and characters that a comment must not contain."""
    return "".join(c if c.isprintable() else " " for c in " ".join(cleaned(text).split()))


def _text(value: Any) -> str:
    listed = isinstance(value, list | tuple)
    return " ".join(map(_text, value)) if listed else str(value)


def _key(value: Any) -> str:
    """A value in the form in which rules look it up: numbers by value, lists in any order."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return f"{value:.12g}"
    if isinstance(value, list | tuple):
        return " ".join(sorted(map(_key, value)))
    return str(value)


def _at(content: Any, path: str) -> Any:
    """The value at a path of keys; None if there is none."""
    for key in path.split("."):
        content = content.get(key) if isinstance(content, dict) else None
    return content


def _put(content: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    for key in parents:
        below = content.get(key)
        content[key] = below if isinstance(below, dict) else {}
        content = content[key]
    content[last] = value
