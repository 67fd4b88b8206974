"""YAML files of the user's: read strictly, and what is wrong with them in one line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from opsd.types import UserError


class _Once(yaml.SafeLoader):
    """Refuses a key that a mapping has twice, of which YAML would keep the last one, and one that
    is no single value, as the inner braces of `{{language}}` are."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                line = key.start_mark.line + 1
                told = "put quotes around a text with braces or brackets"
                raise yaml.constructor.ConstructorError(
                    None, None, f"in line {line} a mapping or a list stands for a key; {told}"
                )
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                line = key.start_mark.line + 1
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{key.value}' stands there twice, again in line {line}"
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def mapping(path: Path) -> dict[str, Any]:
    """A file's keys and values. UserError for a file that cannot be read, or has no keys."""
    try:
        content = yaml.load(path.read_text("utf-8"), _Once)  # a safe loader
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not YAML ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a mapping of keys")
    return content


def explain(error: ValidationError, content: Any) -> str:
    """The first mistake of a validation of `content`, as `key.path: what is wrong`."""
    first = error.errors()[0]
    keys: list[str] = []
    level: Any = content
    for i, key in enumerate(first["loc"]):
        steps: Any = level
        inside = isinstance(steps, list | tuple) or (isinstance(steps, Mapping) and key in steps)
        # The tag of a chosen class is a step in pydantic's path, but no key of the recipe.
        if inside or (i == len(first["loc"]) - 1 and isinstance(steps, Mapping)):
            keys.append(str(key))
            level = steps[key] if inside else None  # pyright: ignore
    unknown = first["type"] in ("extra_forbidden", "unexpected_keyword_argument")
    message = "unknown key" if unknown else first["msg"]
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{'.'.join(keys)}: {message}{more}"
