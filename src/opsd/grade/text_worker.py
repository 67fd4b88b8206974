"""The process that applies patterns and schemas to a model's texts; run as a script.

A request is `{"pattern", "text"}`, with the reply `{"found"}`; or `{"schema", "text"}`, with the
reply `{"json", "wrong"}`, `{"refused"}` for an invalid schema, or `{"missing"}` if the package
jsonschema is not installed.
"""

from __future__ import annotations

import json
import re
from collections import deque
from functools import lru_cache
from typing import Any

from opsd.sandbox.worker import Answer, keep_answering

CPU_LIMIT_S = 1.0
MEMORY_LIMIT_BYTES = 1 << 30
_SHOWN = 300


def found(request: dict[str, Any]) -> dict[str, Any]:
    """The last match of a pattern: its group `answer`, or all of it; None if nothing matches."""
    pattern = re.compile(request["pattern"])
    matches = deque(pattern.finditer(request["text"]), maxlen=1)
    group = "answer" if "answer" in pattern.groupindex else 0
    return {"found": matches[0][group] if matches else None}


@lru_cache
def validator(schema: str) -> Any:
    """The validator of a schema, in the dialect that it names; it resolves no remote references."""
    from jsonschema.validators import Draft202012Validator, validator_for
    from referencing import Registry

    content = json.loads(schema)
    kind: Any = validator_for(content, default=Draft202012Validator)
    kind.check_schema(content)
    return kind(content, registry=Registry())


def checked(request: dict[str, Any]) -> dict[str, Any]:
    """Whether a text is JSON, and what in it violates a schema."""
    try:
        from jsonschema.exceptions import SchemaError, best_match
        from referencing.exceptions import Unresolvable
    except ImportError:
        return {"missing": True}
    try:
        check = validator(json.dumps(request["schema"]))
    except SchemaError as error:
        return {"refused": error.message[:_SHOWN]}
    try:
        content = json.loads(request["text"])
    except RecursionError:
        return {"json": False, "wrong": "it is not JSON: nested too deeply"}
    except ValueError as error:
        return {"json": False, "wrong": f"it is not JSON: {error}"[:_SHOWN]}
    try:
        wrong = best_match(check.iter_errors(content))
    except Unresolvable as error:
        return {"refused": f"a reference that leads nowhere: {error}"[:_SHOWN]}
    told = None if wrong is None else f"{wrong.json_path}: {wrong.message}"[:_SHOWN]
    return {"json": True, "wrong": told}


def load() -> Answer:
    """The function that answers requests of both kinds."""
    return lambda request: found(request) if "pattern" in request else checked(request)


def main() -> None:
    """Answer until the input ends."""
    keep_answering(load, CPU_LIMIT_S, MEMORY_LIMIT_BYTES)


if __name__ == "__main__":
    main()
