"""Checks where prompts end and replies begin: how the student's and the teacher's prompts differ
there, what else is odd about a prompt, and which token ends a reply. Notes are one line each, with
the remedy."""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Literal

from opsd.prompts.prompt import CLOSING, OPENING, prompt_parts, prompt_text, templated
from opsd.types import UserError, View

STUDENT, TEACHER = "method.student", "method.signal.teacher.context"
"""The recipe's keys for the prompts of both roles."""

_SKIP = "--set 'method.signal.weighting=[{type: skip_first, n: 1}]'"
_IN_WORDS = {
    "open": f"inside an open {OPENING}",
    "closed": f"after a closed {CLOSING}",
    "unsaid": "right after the assistant's header",
}


def notes(tokenizer: Any, student: View, teacher: View, *, first_taught: bool = True) -> list[str]:
    """Notes that a user should read about these two prompts before training on them.

    `first_taught` says whether a completion's first token is in the loss. If not, it does no harm
    that the roles expect different first tokens.
    """
    found = [
        *prompt_notes(tokenizer, student, STUDENT),
        *prompt_notes(tokenizer, teacher, TEACHER),
        *_between(tokenizer, student, teacher, first_taught),
    ]
    return list(dict.fromkeys(found))


def prompt_notes(tokenizer: Any, view: View, key: str = STUDENT) -> list[str]:
    """Notes on what is odd about one prompt; `key` is its place in the recipe."""
    return [
        *_tag(tokenizer, view, key),
        *_options(tokenizer, view, key),
        *_specials(tokenizer, view, key),
    ]


def reply_follows(tokenizer: Any, view: View) -> str:
    """The text that the reply directly follows: the assistant's header, as the template writes it,
    and the prefill."""
    if tokenizer.chat_template is None:
        return view.prefill
    turns = templated(tokenizer, view, add_generation_prompt=False)
    text = prompt_text(tokenizer, view)
    same = bisect_left(range(len(turns)), True, key=lambda n: turns[: n + 1] != text[: n + 1])
    return text[same:]


def thinking(ending: str) -> Literal["open", "closed", "unsaid"]:
    """Whether a reply after this text begins inside the thinking, after it, or whether the model
    decides."""
    opened, closed = ending.rfind(OPENING), ending.rfind(CLOSING)
    if closed > opened:
        return "closed"
    return "open" if opened >= 0 else "unsaid"


def end_of_turn(tokenizer: Any) -> int | None:
    """The token that the chat template writes after an assistant's turn (`<|im_end|>`,
    `<|eot_id|>`, `<end_of_turn>`). A chat model ends its replies with it, whatever its config lists
    first as end of sequence. None without a template, or if that end is not a single token."""
    if tokenizer.chat_template is None:
        return None
    reply = "What an assistant says."
    turns = ({"role": "user", "content": "?"}, {"role": "assistant", "content": reply})
    try:
        text = templated(tokenizer, View("end of turn", turns), add_generation_prompt=False)
    except UserError:
        return None
    _, found, after = text.rpartition(reply)
    ids = tokenizer(after, add_special_tokens=False)["input_ids"] if found else []
    return next((i for i in ids if i in tokenizer.added_tokens_decoder), None)


def _tag(tokenizer: Any, view: View, key: str) -> Iterator[str]:
    if OPENING not in view.prefill:
        return
    count = len(tokenizer(OPENING, add_special_tokens=False)["input_ids"])
    if count > 1:
        rest = "{{ think_prefix }}" if re.sub(r"</?think>|\s", "", view.prefill) else ""
        yield (
            f"{key}.prefill: {OPENING} is not one token of this tokenizer but {count}, ordinary"
            " text that the model may not know as a tag; drop it with"
            f" --set '{key}.prefill=\"{rest}\"'"
        )


def _options(tokenizer: Any, view: View, key: str) -> Iterator[str]:
    if tokenizer.chat_template is None:
        if view.template_options:
            yield f"{key}.template_options: this tokenizer has no chat template; leave them out"
        return
    template = tokenizer.get_chat_template()
    for name, value in view.template_options.items():
        if name in template:
            continue
        ignored = f"{key}.template_options: this chat template does not know '{name}'"
        if not value and thinking(reply_follows(tokenizer, view)) == "open":
            closed = f"{OPENING}\\n\\n{CLOSING}\\n\\n"
            yield (
                f"{ignored} and opens {OPENING} anyway; close it with"
                f" --set '{key}.prefill=\"{closed}\"'"
            )
        else:
            yield f"{ignored}, so it has no effect; leave it out"
    if "strftime_now" in template and "date_string" not in view.template_options:
        yield (
            f"{key}: this chat template writes today's date, so a run resumed tomorrow reads"
            " different prompts; if the template allows it, pin the date with"
            f" --set '{key}.template_options={{date_string: 26 Jul 2024}}'"
        )


def _specials(tokenizer: Any, view: View, key: str) -> Iterator[str]:
    if _doubled(tokenizer, prompt_text(tokenizer, view)):
        yield (
            f"{key}: the prompt begins with {tokenizer.bos_token} twice; remove it from the text,"
            " or from the tokenizer's chat template"
        )
    if view.prefill.endswith(" "):
        yield (
            f"{key}.prefill ends with a space, which most tokenizers join to the next word; end it"
            " with the word before"
        )
    text = "\n".join(message["content"] for message in view.messages)
    for token in sorted(set(_special_texts(tokenizer).findall(text))):
        yield (
            f"{key}: a text contains {token}, which the tokenizer reads as a special token; remove"
            " it from the data"
        )


def _doubled(tokenizer: Any, text: str) -> bool:
    """Whether a prompt begins with two BOS tokens."""
    if tokenizer.bos_token is None:
        return False
    head = text[: 2 * len(tokenizer.bos_token)]
    ids = tokenizer(head, add_special_tokens=tokenizer.chat_template is None)["input_ids"]
    return ids[:2] == [tokenizer.bos_token_id] * 2


@lru_cache(maxsize=4)
def _special_texts(tokenizer: Any) -> re.Pattern[str]:
    special = [str(t) for t in tokenizer.added_tokens_decoder.values() if t.special]
    return re.compile("|".join(map(re.escape, special)) or r"(?!)")


def _between(tokenizer: Any, student: View, teacher: View, first_taught: bool) -> Iterator[str]:
    if prompt_parts(tokenizer, student) == prompt_parts(tokenizer, teacher):
        yield (
            "the teacher reads exactly what the student reads: nothing is privileged. This is right"
            " for staying near the starting model; else set another method.signal.teacher.context"
        )
        return
    ours, theirs = (reply_follows(tokenizer, view) for view in (student, teacher))
    if ours == theirs or not first_taught:
        return
    states = [_IN_WORDS[thinking(ending)] for ending in (ours, theirs)]
    if states[0] == states[1]:
        states = [f"after {ending[-40:]!r}" for ending in (ours, theirs)]
    yield (
        f"first token: the student's reply begins {states[0]}, the teacher's {states[1]}, so they"
        f" expect different ones. Make them equal ({_alike(tokenizer, student, teacher)}), or"
        f" exclude that token from the loss ({_SKIP})"
    )


def _alike(tokenizer: Any, student: View, teacher: View) -> str:
    """The changes that give the teacher's prompt the student's ending."""
    template = tokenizer.get_chat_template() if tokenizer.chat_template else ""
    options = [
        {name: value for name, value in view.template_options.items() if name in template}
        for view in (student, teacher)
    ]
    ways = [] if student.prefill == teacher.prefill else ["the same prefill"]
    if options[0] != options[1]:
        written = ", ".join(f"{k}: {json.dumps(v)}" for k, v in student.template_options.items())
        ways.insert(0, f"--set '{TEACHER}.template_options={{{written}}}'")
    return " and ".join(ways)


def eos_ids(model: Any, tokenizer: Any) -> list[int]:
    """Every id that ends a completion: first the chat template's end of turn, which is appended to
    completions from a dataset, then those of the generation config and of the tokenizer."""
    listed = model.generation_config.eos_token_id
    ids = listed if isinstance(listed, list) else [listed]
    ids = [end_of_turn(tokenizer), *ids, tokenizer.eos_token_id]
    return [i for i in dict.fromkeys(ids) if i is not None]
