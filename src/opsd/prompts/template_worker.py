"""The process that renders untrusted templates; run as a script.

A request is `{"kind": "prompt" | "chat", "template", "names"}`, its reply `{"text"}`, `{"limit"}`,
or `{"error"}` and, if a name was undefined, `{"missing": true}`.
"""

from __future__ import annotations

import json
from datetime import datetime
from functools import lru_cache
from typing import Any, ClassVar, NoReturn

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

from opsd.sandbox.worker import Answer, keep_answering

CPU_LIMIT_S = 2.0
MEMORY_LIMIT_BYTES = 1 << 30
TEXT_LIMIT = 1 << 26
"""The maximum number of characters in a rendered template."""


class _Generation(jinja2.ext.Extension):
    """`{% generation %}`, by which chat templates mark the assistant's text: rendered as its
    body."""

    tags: ClassVar[set[str]] = {"generation"}

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body).set_lineno(line)


def prompt_environment() -> jinja2.Environment:
    """The environment of prompt templates: an undefined name is an error."""
    return jinja2.sandbox.ImmutableSandboxedEnvironment(
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def chat_environment() -> jinja2.Environment:
    """The environment of chat templates: the same as in Transformers, whose own function would take
    seconds to import."""
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_Generation, jinja2.ext.loopcontrols],
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: Any = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def load() -> Answer:
    """The function that renders templates of both kinds."""
    environments = {"prompt": prompt_environment(), "chat": chat_environment()}

    @lru_cache(maxsize=256)
    def compiled(kind: str, template: str) -> jinja2.Template:
        return environments[kind].from_string(template)

    def fill(request: dict[str, Any]) -> dict[str, Any]:
        try:
            pieces, length = [], 0
            template = compiled(request["kind"], request["template"])
            for piece in template.generate(request["names"]):
                length += len(piece)
                if length > TEXT_LIMIT:
                    return {"limit": "size"}
                pieces.append(piece)
            return {"text": "".join(pieces)}
        except jinja2.TemplateSyntaxError as error:
            return {"error": f"line {error.lineno}: {error.message}"}
        except jinja2.UndefinedError as error:
            return {"error": str(error), "missing": True}

    return fill


if __name__ == "__main__":
    keep_answering(load, CPU_LIMIT_S, MEMORY_LIMIT_BYTES)
