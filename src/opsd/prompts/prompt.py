"""Renders a view of a problem to token ids: templates, chat template, prefill. Nothing is
truncated."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from opsd.prompts.rendering import Unfilled, rendered, shipped_templates
from opsd.types import Problem, UserError, View

OPENING, CLOSING = "<think>", "</think>"
"""The tags around a reply's thinking, in recipes and in the chat templates that use them."""

_UNDEFINED = re.compile("'(.+)' is undefined")
"""Jinja's message for an undefined name."""

TEMPLATE_LIMIT = 1_000_000
"""The maximum number of characters in a prompt template's file."""

INSTRUCTED = "instructed"
"""The metadata key of a problem whose own text says how to answer."""


class LacksText(UserError):
    """A prompt needs a text that a problem does not have: `text`, by its name. `shows` says which
    prompt shows it."""

    def __init__(self, problem: Problem, text: str, shows: str) -> None:
        self.problem, self.text, self.shows = problem, text, shows
        have = ", ".join(sorted(problem.privileged)) or "none"
        super().__init__(
            f"{problem.name}: no '{text}', which {shows}; privileged texts it has: {have}. Fill"
            f" its column in, or map data.columns.{text} to another one"
        )


@cache
def template_text(template: str) -> str:
    """The text of a prompt template: a shipped one's name, a `.jinja` file, or the text itself.

    Raises UserError if it is none of these, and for a file that cannot be read.
    """
    return template if _is_text(template) else _named(template, Path(template))


def without_files(value: Any, folder: Path | None = None) -> Any:
    """Plain values with each template file's path replaced by the file's text. With a `folder`,
    whose recipe someone else may have written, only files inside it are read.

    Raises UserError for a file outside the folder, and for one that cannot be read.
    """
    if isinstance(value, list):
        return [without_files(x, folder) for x in value]
    if not isinstance(value, dict):
        return value
    made = {k: x if k == "template_options" else without_files(x, folder) for k, x in value.items()}
    template = made.get("template")
    if isinstance(template, str) and not _is_text(template) and template not in shipped_templates():
        # The trailing line break, which filling removes, marks it as a text rather than a name.
        made["template"] = _named(template, _found(template, folder)).rstrip("\n") + "\n"
    return made


def _is_text(template: str) -> bool:
    return not template or any(mark in template for mark in ("{{", "{%", "\n"))


def _found(template: str, folder: Path | None) -> Path:
    if folder is None:
        return Path(template)
    try:
        place = (folder / template).resolve()
    except (OSError, RuntimeError) as error:  # the latter for a circular link
        raise UserError(f"prompt template '{template}': {error}") from error
    if not place.is_relative_to(folder.resolve()):
        raise UserError(
            f"the prompt template '{template}' lies outside {folder}, the recipe's folder; move it"
            " there, or select it yourself, with --set and the template's key"
        )
    return place


def _named(template: str, file: Path) -> str:
    known = shipped_templates()
    if template in known:
        return known[template]
    try:
        if file.is_file():
            with file.open(encoding="utf-8") as lines:
                text = lines.read(TEMPLATE_LIMIT + 1)
            if len(text) > TEMPLATE_LIMIT:
                raise UserError(f"{file}: a prompt template has at most a million characters")
            return text
    except (OSError, UnicodeDecodeError) as error:
        told = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise UserError(f"prompt template '{template[:200]}': {told}") from error
    raise UserError(
        f"no prompt template '{template}': neither a file nor one of {', '.join(known)}"
    )


def fill(template: str, problem: Problem, **extra: Any) -> str:
    """A template filled from a problem: its text, its privileged texts, its language's strings.

    Raises LacksText if the template uses a text that the problem does not have.
    """
    name = _begins(template) if _is_text(template) else template
    return _render(template_text(template), problem, extra, name).strip("\n")


def _begins(text: str) -> str:
    return " ".join(text.split())[:40]


def _render(text: str, problem: Problem, extra: Mapping[str, Any], name: str) -> str:
    from opsd.languages.registry import language  # listing the methods must not load languages

    lang = language(problem.language)
    instructed = INSTRUCTED in problem.metadata
    fixed = {
        "problem": problem.text,
        "instruction": "" if instructed else lang.instruction,
        "final_instruction": "" if instructed else lang.closing,
        "transition": lang.transition,
        "think_prefix": lang.think_prefix,
        "labels": lang.labels.model_dump(),
        **({} if problem.answer is None else {"answer": problem.answer}),
    }
    if taken := fixed.keys() & problem.privileged.keys():
        raise UserError(
            f"problem {problem.id}: a privileged text is called '{min(taken)}', a name with a fixed"
            " meaning in every prompt template, the student's included: give it another name in"
            " data.columns"
        )
    names = {**fixed, **problem.privileged, **extra}
    try:
        return rendered("prompt", text, names)
    except Unfilled as error:
        asked = _UNDEFINED.fullmatch(str(error))
        if not error.missing or asked is None:
            raise UserError(f"{problem.name}: prompt template '{name}': {error}") from error
        raise LacksText(problem, asked[1], f"the prompt template '{name}' shows") from error


def view(
    name: str,
    problem: Problem,
    template: str,
    *,
    prefill: str = "",
    template_options: Mapping[str, Any] | None = None,
    **extra: Any,
) -> View:
    """Build a problem's view from a template; earlier turns of a conversation stay."""
    content = fill(template, problem, **extra)
    earlier = () if isinstance(problem.prompt, str) else problem.prompt[:-1]
    return View(
        name=name,
        messages=(*earlier, {"role": "user", "content": content}),
        # Always text, never a template's name; its last newline counts ("<think>\n").
        prefill=_render(prefill, problem, extra, _begins(prefill)),
        template_options=template_options or {},
    )


def answered(text: str) -> str:
    """A completion's text after its thinking; all of it if no thinking was closed."""
    return text.rpartition(CLOSING)[2].strip()


def prompt_parts(tokenizer: Any, view: View) -> tuple[str, str]:
    """The text from the chat template, including the assistant's header, and the forced text after
    it.

    A prefill that opens the thinking replaces an opening tag that the template has written
    (DeepSeek-R1), so that the tag is never doubled. Without a chat template, the text is the
    messages' contents, separated by blank lines. Raises UserError if the template rejects the
    conversation or an option, or has already closed the thinking that the prefill opens (Qwen3).
    """
    if tokenizer.chat_template is None:
        return "\n\n".join(m["content"] for m in view.messages) + "\n\n", view.prefill
    written = templated(tokenizer, view, add_generation_prompt=True)
    bare = written.rstrip()
    if not view.prefill.lstrip().startswith(OPENING):
        return written, view.prefill
    if bare.endswith(CLOSING):
        raise UserError(
            f"the prompt '{view.name}': the chat template has closed the thinking and the prefill"
            f" opens it again; set its template_options to {{enable_thinking: true}}, or remove"
            f" {OPENING} from its prefill"
        )
    return bare.removesuffix(OPENING) if bare.endswith(OPENING) else written, view.prefill


def prompt_text(tokenizer: Any, view: View) -> str:
    """The prompt as the model reads it: chat template, assistant's header, prefill."""
    return "".join(prompt_parts(tokenizer, view))


def prompt_ids(tokenizer: Any, view: View) -> tuple[int, ...]:
    """Token ids of `prompt_text`. The chat template has already written any BOS token."""
    special, text = tokenizer.chat_template is None, prompt_text(tokenizer, view)
    # The length limit decides whether a prompt is too long, not the tokenizer's warning.
    return tuple(tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"])


def read(tokenizer: Any, view: View, room: int, limit: int) -> tuple[tuple[int, ...], bool]:
    """A view's token ids, never truncated, and whether `room` more tokens stay within the limit.
    This is the only place that decides what is read, and whether it fits."""
    ids = prompt_ids(tokenizer, view)
    return ids, len(ids) + room <= limit


def templated(tokenizer: Any, view: View, *, add_generation_prompt: bool) -> str:
    """A view's messages through the chat template, with the view's options.

    Options that the template does not know have no effect. Raises UserError for options that are
    the tokenizer's own arguments, for input that the template rejects, and if it exceeds its
    limits.
    """
    own = inspect.signature(tokenizer.apply_chat_template).parameters.keys()
    for name in view.template_options.keys() & ({"messages", *own} - {"tools", "documents"}):
        raise UserError(
            f"the prompt '{view.name}': '{name}' in template_options is not an option of a chat"
            " template; leave it out"
        )
    names = {
        "messages": list(view.messages),
        "tools": None,
        "documents": None,
        "add_generation_prompt": add_generation_prompt,
        **tokenizer.special_tokens_map,
        **view.template_options,
    }
    try:
        if _writes_itself(tokenizer):
            options = {**view.template_options, "add_generation_prompt": add_generation_prompt}
            return tokenizer.apply_chat_template(names["messages"], tokenize=False, **options)
        return rendered("chat", tokenizer.get_chat_template(tools=names["tools"]), names)
    except (Unfilled, TypeError, ValueError) as error:
        roles = ", ".join(message["role"] for message in view.messages)
        raise UserError(
            f"the prompt '{view.name}' (turns: {roles}; template_options:"
            f" {dict(view.template_options)}): the model's chat template refuses it ({error})"
        ) from error


def _writes_itself(tokenizer: Any) -> bool:
    """Whether a tokenizer's class overrides `apply_chat_template`, and thus renders conversations
    itself. Such a class has been trusted to run."""
    from transformers import PreTrainedTokenizerBase

    usual = PreTrainedTokenizerBase.apply_chat_template
    return type(tokenizer).apply_chat_template is not usual
