"""Renders templates: shipped ones in this process, all others in a separate process with limits. A
template is a program, and one from someone else may loop or use too much memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from importlib import resources
from inspect import isfunction, ismethod
from pathlib import Path
from typing import Any, Literal

from pydantic_core import to_jsonable_python

from opsd.sandbox.process import Limited

Kind = Literal["prompt", "chat"]

WALL_LIMIT_S = 60.0
"""The worker ends after two seconds of CPU time; this limit applies if it does not get that
time."""

_TOLD = {
    "time": "it takes longer than 2 seconds",
    "memory": "it takes more than 1 GiB of memory",
    "size": "it writes more than 64 million characters",
}
_MARKS = ("{{", "{%", "{#")

_worker = Limited("template process", Path(__file__).with_name("template_worker.py"))
_endless: dict[str, str] = {}


class Unfilled(Exception):
    """A template that cannot be rendered, with the reason in one line; `missing` says that a name
    is undefined."""

    def __init__(self, told: str, *, missing: bool = False) -> None:
        super().__init__(" ".join(told.split())[:300])
        self.missing = missing


def rendered(kind: Kind, template: str, names: Mapping[str, Any]) -> str:
    """The rendered text of a template with the given `names`; a chat template is rendered as by
    Transformers. Safe in threads and in forked processes.

    Raises Unfilled for any error of the template, and if it exceeds a limit.
    """
    # A template that exceeded its limits once would do so for every row, taking seconds each time.
    if template in _endless:
        raise Unfilled(_endless[template])
    request = {"kind": kind, "template": template, "names": names}
    if template in _trusted() or not any(mark in template for mark in _MARKS):
        reply = _here()(request)
    else:
        reply = _worker.ask(request, WALL_LIMIT_S, default=_plain)
    if limit := reply.get("limit"):
        _endless[template] = _TOLD[limit]
        raise Unfilled(_TOLD[limit])
    if "error" in reply:
        raise Unfilled(reply["error"], missing=reply.get("missing", False))
    return _whole(reply["text"])


def _whole(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise Unfilled("it writes half a surrogate pair, which no tokenizer accepts") from error
    return text


@cache
def _here() -> Callable[[dict[str, Any]], dict[str, Any]]:
    # Imported only here: listing the methods renders no template.
    from opsd.prompts.template_worker import load

    fill = load()

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        try:
            return fill(request)
        except Exception as error:  # as the worker does
            return {"error": f"{type(error).__name__}: {error}"}

    return answer


@cache
def shipped_templates() -> dict[str, str]:
    """The texts of the shipped prompt templates, by name."""
    folder = resources.files("opsd.prompts") / "templates"
    files = sorted(folder.iterdir(), key=lambda file: file.name)
    return {file.name.removesuffix(".jinja"): file.read_text("utf-8") for file in files}


@cache
def _trusted() -> frozenset[str]:
    chat = resources.files("opsd.miniature") / "chat_template.jinja"
    return frozenset((*shipped_templates().values(), chat.read_text("utf-8")))


def _plain(value: Any) -> Any:
    """Convert values that JSON does not support: dates, dataclasses, and functions that a chat
    template shows as tools."""
    if isfunction(value) or ismethod(value):
        from transformers.utils.chat_template_utils import get_json_schema

        return get_json_schema(value)
    return to_jsonable_python(value, fallback=str)
