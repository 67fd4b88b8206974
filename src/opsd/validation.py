"""YAML files of the user's: read strictly, and what is wrong with them in one line."""

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
"""Characters of a file."""
MOST = 1_000_000
"""Values in a file, with all that its aliases repeat."""

_UNREADABLE = re.compile("[\0\ud800-\udfff]")
"""What no path may hold and no file can be written with."""

_QUOTED = re.compile(r"""\s*(?:'[^']{2,}'|"[^"]{2,}")""")
"""The words of a file in YAML's own messages."""


class _Refused(yaml.MarkedYAMLError):
    """Something that YAML allows, and that is refused here."""


class _Once(yaml.SafeLoader):
    """Refuses a key that a mapping has twice, of which YAML would keep the last one, and one that
    is no single value, as the inner braces of `{{language}}` are; a few aliases that stand for
    billions of values; and what raises anything else where it is made into a value."""

    def get_single_node(self) -> Any:
        node = super().get_single_node()
        if node is not None and _values(node, {}) > MOST:
            raise _wrong(f"its aliases repeat more than {MOST:,} values")
        return node

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (yaml.YAMLError, RecursionError, MemoryError):
            raise
        except Exception as error:  # of dates, numbers and tags: nearly anything
            kind = node.tag.rpartition(":")[2]
            raise _wrong(f"a value is no {kind}; put quotes around a text", node) from error

    def construct_scalar(self, node: Any) -> Any:
        value = super().construct_scalar(node)
        if isinstance(value, str) and _UNREADABLE.search(value):
            raise _wrong("a text holds a NUL, or half a character", node)
        return value

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if not isinstance(key, yaml.ScalarNode):
                told = "put quotes around a text with braces or brackets"
                raise _wrong(f"a mapping or a list stands for a key; {told}", key)
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                raise _wrong(f"the key '{key.value[:100]}' stands there twice", key)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _wrong(told: str, node: Any = None) -> _Refused:
    return _Refused(problem=told, problem_mark=None if node is None else node.start_mark)


def _values(node: Any, known: dict[int, int]) -> int:
    """How many values a node is, where an alias counts as all that it stands for."""
    if id(node) not in known:
        known[id(node)] = MOST + 1  # a node that is met again inside itself is endless
        inner = node.value if isinstance(node, yaml.CollectionNode) else ()
        pairs = isinstance(node, yaml.MappingNode)
        nodes = [part for pair in inner for part in pair] if pairs else inner
        known[id(node)] = 1 + sum(_values(part, known) for part in nodes)
    return known[id(node)]


def parsed(text: str, where: str) -> Any:
    """The value that YAML text stands for. UserError says what is wrong `where`, and in which line,
    and quotes nothing but keys: the text may be a file that was never meant to be read here."""
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
    """What a file holds. UserError for one that cannot be read, or is no YAML."""
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
    """A file's keys and values. UserError for a file that cannot be read, or has no keys."""
    found = content(path)
    if not isinstance(found, dict):
        raise UserError(f"{path}: not a mapping of keys")
    return found


def near(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """Which of the known names was meant, as the end of a message; nothing where none is like it.
    One of the same letters is nearest: two that were swapped. A folder and a suffix that two names
    have in common make them no more alike.

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
    """What is said of a name that is none of those known.

    >>> unknown("method", "opds", ["opsd", "grpo"])
    "unknown method 'opds'; did you mean 'opsd'? known: grpo, opsd"
    """
    names = sorted(known)
    hint = near(str(name), names) or ";"
    return f"unknown {what} '{name}'{hint} known: {', '.join(names)}"


def explain(error: ValidationError, content: Any, kind: Any = None) -> str:
    """The first mistake of a validation of `content` as a `kind`, as `key.path: what is wrong`; of
    a mistyped key or part, which one was meant."""
    first = error.errors()[0]
    keys: list[str] = []
    level: Any = content
    for i, key in enumerate(first["loc"]):
        steps: Any = level
        listed = isinstance(steps, list | tuple) and isinstance(key, int)
        inside = listed or (isinstance(steps, Mapping) and key in steps)
        # The tag of a chosen class is a step in pydantic's path, but no key of the recipe.
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
    """The keys, or the tags of parts, that pydantic knows at a place in a value of this kind; none
    where the place is in a plain union, which its path does not tell apart."""
    if kind is None:
        return []
    schema: Any = (kind if isinstance(kind, TypeAdapter) else TypeAdapter(kind)).core_schema
    shared = {own["ref"]: own for own in schema.get("definitions", ())}
    for step in loc:
        schema = _inside(schema, shared).get(0 if isinstance(step, int) else step, {})
    return [name for name in _inside(schema, shared) if name not in (0, OWN, SEVERAL)]


def _inside(schema: Any, shared: Mapping[str, Any]) -> dict[Any, Any]:
    """The schemas of what a value is made of, by key or tag; 0 stands for all that is in a list."""
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
            return {0: items[-1]}  # of a term: its coefficient has nothing inside
        case {"schema": inner}:
            return _inside(inner, shared)
    return {}


def install(extra: str) -> str:
    """How a package that only some need is installed."""
    return f"pip install -e '.[{extra}]' in the checkout"
