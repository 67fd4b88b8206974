"""Reads the user's YAML files strictly, and reports what is wrong with them in one line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from heapq import nlargest
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from opsd.parts import OWN, SEVERAL, UNKNOWN
from opsd.types import UserError

LONGEST = 4_000_000
"""The maximum number of characters in a file."""
MOST = 1_000_000
"""The maximum number of values in a file, counting every repetition through an alias."""

_UNREADABLE = re.compile("[\0\ud800-\udfff]")
"""Characters that no path may contain and that cannot be written to a file."""

_QUOTED = re.compile(r"""\s*(?:'[^']{2,}'|"[^"]{2,}")""")
"""Quotations from the file in YAML's own messages."""


class _Refused(yaml.MarkedYAMLError):
    """Something that YAML allows but this reader rejects."""


class _Once(yaml.SafeLoader):
    """Rejects some of what YAML accepts: a key that occurs twice in a mapping, of which YAML would
    keep the last one; a key that is not a scalar, such as the inner braces of `{{language}}`; and
    aliases that expand to billions of values. Any other error in constructing a value becomes a
    YAML error."""

    def get_single_node(self) -> Any:
        node = super().get_single_node()
        if node is not None and _values(node, {}) > MOST:
            raise _wrong(f"its aliases expand to more than {MOST:,} values")
        return node

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (yaml.YAMLError, RecursionError, MemoryError):
            raise
        except Exception as error:  # dates, numbers and tags may raise nearly anything
            kind = node.tag.rpartition(":")[2]
            raise _wrong(f"a value is not a {kind}; put quotes around a text", node) from error

    def construct_scalar(self, node: Any) -> Any:
        value = super().construct_scalar(node)
        if isinstance(value, str) and _UNREADABLE.search(value):
            raise _wrong("a text contains a NUL or half a surrogate pair", node)
        return value

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if not isinstance(key, yaml.ScalarNode):
                told = "put quotes around a text with braces or brackets"
                raise _wrong(f"a mapping or a list is used as a key; {told}", key)
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                raise _wrong(f"the key '{key.value[:100]}' occurs twice", key)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _wrong(told: str, node: Any = None) -> _Refused:
    return _Refused(problem=told, problem_mark=None if node is None else node.start_mark)


def _values(node: Any, known: dict[int, int]) -> int:
    """The number of values in a node, where an alias counts as all the values that it stands
    for."""
    if id(node) not in known:
        known[id(node)] = MOST + 1  # a node that contains itself is endless
        inner = node.value if isinstance(node, yaml.CollectionNode) else ()
        pairs = isinstance(node, yaml.MappingNode)
        nodes = [part for pair in inner for part in pair] if pairs else inner
        known[id(node)] = 1 + sum(_values(part, known) for part in nodes)
    return known[id(node)]


def parsed(text: str, where: str) -> Any:
    """The value of a YAML text. UserError names `where`, the line and the mistake, and quotes
    nothing but keys: the text may come from a file that was never meant to be read here."""
    if len(text) > LONGEST:
        raise UserError(f"{where}: longer than {LONGEST:,} characters")
    try:
        return yaml.load(text, _Once)  # a safe loader
    except RecursionError as error:
        raise UserError(f"{where}: not YAML (nested too deeply)") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"in line {mark.line + 1} " if mark else ""
        if isinstance(error, _Refused):
            raise UserError(f"{where}: {line}{error.problem}") from error
        told = _QUOTED.sub("", str(error.problem))
        mend = "put quotes around texts with special characters"
        raise UserError(f"{where}: not YAML ({line}{told}); {mend}") from error
    except yaml.YAMLError as error:
        raise UserError(f"{where}: not YAML (a character that YAML does not allow)") from error


def content(path: Path | Traversable) -> Any:
    """The value of a YAML file. UserError if it cannot be read or is not YAML."""
    try:
        if not path.is_file():
            raise UserError(f"{path}: cannot be read: No such file")
        with path.open("r", encoding="utf-8-sig") as file:
            return parsed(file.read(LONGEST + 1), str(path))
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text; save it as UTF-8") from error


def mapping(path: Path) -> dict[str, Any]:
    """The keys and values of a YAML file. UserError if it cannot be read or is not a mapping."""
    found = content(path)
    if not isinstance(found, dict):
        raise UserError(f"{path}: not a mapping of keys")
    return found


def near(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """The known name that was probably meant, as the end of a message; empty if none is similar. A
    name with the same letters in another order comes first. A folder or a suffix that two names
    have in common does not make them more similar.

    >>> near("opds", ["topd", "opsd", "grpo"])
    "; did you mean 'opsd'?"
    >>> near("runs/wrods.yaml", ["runs/words.yaml"]), near("nosuch.yaml", ["words.yaml"])
    ("; did you mean 'runs/words.yaml'?", '')
    """
    own = Path(name)

    def likeness(other: str) -> tuple[float, str]:
        path = Path(other)
        alike = (path.parent, path.suffix) == (own.parent, own.suffix)
        one, two = (path.stem, own.stem) if alike else (other, name)
        return difflib.SequenceMatcher(None, one, two).ratio(), other

    found = [other for score, other in nlargest(3, map(likeness, known)) if score >= cutoff]
    found.sort(key=lambda other: sorted(other) != sorted(name))
    return f"; did you mean '{found[0]}'?" if found else ""


def unknown(what: str, name: Any, known: Iterable[str]) -> str:
    """The message for a name that is not among the known ones.

    >>> unknown("method", "opds", ["opsd", "grpo"])
    "unknown method 'opds'; did you mean 'opsd'? known: grpo, opsd"
    """
    names = sorted(known)
    hint = near(str(name), names) or ";"
    return f"unknown {what} '{name}'{hint} known: {', '.join(names)}"


def explain(error: ValidationError, content: Any, kind: Any = None) -> str:
    """The first mistake in a validation of `content` as a `kind`, as `key.path: what is wrong`. For
    a mistyped key or part, the message suggests the one that was probably meant."""
    first = error.errors()[0]
    keys: list[str] = []
    level: Any = content
    for i, key in enumerate(first["loc"]):
        steps: Any = level
        listed = isinstance(steps, list | tuple) and isinstance(key, int)
        inside = listed or (isinstance(steps, Mapping) and key in steps)
        # The tag of a chosen class is a step in pydantic's path, but not a key of the recipe.
        last = i == len(first["loc"]) - 1 and key != OWN
        if inside or (last and isinstance(steps, Mapping)):
            keys.append(str(key))
            level = steps[key] if inside else None  # pyright: ignore
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        *above, key = first["loc"]
        message = f"unknown key{near(str(key), _names_at(kind, above))}"
    if first["type"] == UNKNOWN:
        given = first["input"]
        tag = given.get("type") if isinstance(given, Mapping) else given
        message += f", not {tag!r}"
        message += near(str(tag), _names_at(kind, first["loc"]))
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{'.'.join(keys)}: {message}{more}"


def _names_at(kind: Any, loc: Sequence[int | str]) -> list[str]:
    """The keys, or the tags of parts, that pydantic knows at a place in a value of this kind. Empty
    if the place is in a plain union, whose members pydantic's path does not distinguish."""
    if kind is None:
        return []
    schema: Any = (kind if isinstance(kind, TypeAdapter) else TypeAdapter(kind)).core_schema
    shared = {own["ref"]: own for own in schema.get("definitions", ())}
    for step in loc:
        schema = _inside(schema, shared).get(0 if isinstance(step, int) else step, {})
    return [name for name in _inside(schema, shared) if name not in (0, OWN, SEVERAL)]


def _inside(schema: Any, shared: Mapping[str, Any]) -> dict[Any, Any]:
    """The schemas inside a value's schema, by key or tag; 0 stands for all elements of a list."""
    match schema:
        case {"type": "definition-ref", "schema_ref": ref}:
            return _inside(shared[ref], shared)
        case {"type": "model-fields", "fields": fields}:
            return {name: field["schema"] for name, field in fields.items()}
        case {"type": "dataclass-args", "fields": fields}:
            return {field["name"]: field["schema"] for field in fields}
        case {"type": "tagged-union", "choices": choices}:
            return choices
        case {"type": "tuple", "items_schema": items}:
            return {0: items[-1]}  # a (coefficient, term) pair: only the term has keys
        case {"schema": inner}:
            return _inside(inner, shared)
    return {}


def install(extra: str) -> str:
    """The command that installs an optional dependency."""
    return f"pip install -e '.[{extra}]' in the checkout"
