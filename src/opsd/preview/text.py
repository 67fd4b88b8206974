"""A preview for people, on standard output. Every text of a row or of a model is shown as plain
characters: neither markup nor a terminal's control codes take effect."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.box import ROUNDED, SIMPLE_HEAD
from rich.console import Console, Group
from rich.panel import Panel
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

WIDTH = 110
_HEAD, _TAIL = 40, 12
_STYLES = {"text": "", "special": "bold magenta", "forced": "yellow"}
_ROLES = {"student": "cyan", "sampler": "blue", "second try": "blue"}
_TURNS = set("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_SUBSCRIPT = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


def show(content: Mapping[str, Any], ids: bool = False) -> None:
    """Prints what `preview` found; `ids` adds every token's number."""
    console = Console(highlight=False)
    console.width = min(console.width, WIDTH)
    console.print(_headline(content))
    for number, row in enumerate(content["rows"], 1):
        console.print()
        title = f"row {number} · {row['language']} · answer {row['answer']} · {row['problem']}"
        console.print(Rule(Text(_plain(title), "bold"), align="left", style="dim"))
        for view in row["views"]:
            console.print(_prompt(view, content["limits"], ids))
        console.print(_reply(row, ids))
    console.print()
    console.print(_lengths(content))
    for remark in _remarks(content["scan"]):
        console.print(remark, soft_wrap=True)  # a command in it can be copied whole


def _headline(content: Mapping[str, Any]) -> Group:
    limits, named = content["limits"], content["tokens"]
    count = "a stream" if content["problems"] is None else f"{content['problems']:,} problems"
    own = limits["limit"] < limits["max_length"]
    whose = "the model's context" if own else "max_length"
    long = "is left out" if limits["prompt_too_long"] == "skip" else "stops the run"
    ends = f"{named['end']['text']}, in the loss like any other token"
    if named["pad"] and named["pad"]["id"] == named["end"]["id"]:
        ends += "; padding looks the same and never is"
    facts = {
        "data": f"{content['data']}, {count}",
        **({"left out": "\n".join(content["left_out"])} if content["left_out"] else {}),
        "limits": f"prompt and reply {limits['limit']:,} tokens ({whose}), the reply"
        f" {limits['max_completion_length']:,}; a row too long {long}",
        "a reply ends": ends,
        "marks": "│ between tokens, ⏎ a line break, ◦ a further token of the same character",
    }
    grid = Table.grid(padding=(0, 2))
    for name, fact in facts.items():
        grid.add_row(Text(name, "dim"), Text(_plain(fact)))
    title = f"{content['method']} on {content['model']}"
    return Group(Text(_plain(title), "bold"), grid)


def _prompt(view: Mapping[str, Any], limits: Mapping[str, Any], ids: bool) -> Panel:
    """A role's prompt, and whether the reply fits behind it."""
    read = view["tokens"]
    forced = next((i for i, token in enumerate(read) if token["kind"] == "forced"), len(read))
    body = _joined(read[:forced], ids)
    if forced < len(read):
        _mark(body, "▸ forced beginning of the reply: in no loss, in no budget", "yellow")
        body.append("\n").append_text(_joined(read[forced:], ids))
    _mark(body, "▾ the reply begins here", "green")
    name = view["role"] if view["role"] == view["view"] else f"{view['role']} · {view['view']}"
    colour = _ROLES.get(view["role"], "magenta")
    room = limits["limit"] - view["length"]
    fits = f"a reply of {view['reply']:,} fits" if view["fits"] else f"room for only {room:,}"
    return Panel(
        body,
        box=ROUNDED,
        title=Text(f"{name} ({view['weights']} weights)", f"bold {colour}"),
        title_align="left",
        subtitle=Text(f"{view['length']:,} tokens, {fits}", "" if view["fits"] else "bold red"),
        subtitle_align="right",
        border_style=colour,
    )


def _reply(row: Mapping[str, Any], ids: bool) -> Panel:
    """The example of a reply, and which of its tokens each signal learns."""
    reply = row["reply"]
    read, signals = reply["tokens"], reply["signals"]
    learned = [any(marks) for marks in zip(*(s["in_loss"] for s in signals), strict=True)]
    body = _joined(read, ids, learned, shorten=True)
    for signal in signals:
        _mark(body, _in_words(signal, read), "green")
    for role in row["not_taught"]:
        _mark(body, f"{role}: reads nothing for this reply", "yellow")
    if reply["longer_than_a_rollout"]:
        _mark(body, "longer than a rollout may be: it would be cut off, without its end", "yellow")
    return Panel(
        body,
        box=ROUNDED,
        title=Text(f"reply, for example: {reply['origin']}", "bold green"),
        title_align="left",
        subtitle=Text(f"{len(read):,} tokens"),
        subtitle_align="right",
        border_style="green",
    )


def _in_words(signal: Mapping[str, Any], read: Sequence[Mapping[str, Any]]) -> str:
    inside = [i for i, kept in enumerate(signal["in_loss"]) if kept]
    if not inside:
        return f"{signal['signal']}: no token in the loss"
    first, last = (_visible(read[i]["text"]) for i in (inside[0], inside[-1]))
    count = "all" if len(inside) == len(read) else f"{len(inside)} of"
    end = "the end included" if inside[-1] == len(read) - 1 else "the end left out"
    return f"{signal['signal']}: {count} {len(read)} in the loss, from '{first}' to '{last}', {end}"


def _joined(
    read: Sequence[Mapping[str, Any]],
    ids: bool,
    learned: Sequence[bool] | None = None,
    *,
    shorten: bool = False,
) -> Text:
    """Tokens in a row, with a bar between them; a line break in a token breaks the line."""
    text = Text(overflow="fold")
    gap = range(_HEAD, len(read) - _TAIL) if shorten else range(0)
    begins = True
    for i, token in enumerate(read):
        if i in gap:
            if i == gap[0]:
                text.append(f" … {len(gap):,} more … ", "dim italic")
                begins = True
            continue
        if not begins and token["text"]:
            text.append("│", "dim")
        style = _STYLES[token["kind"]]
        if learned is not None:
            style = f"{style} green" if learned[i] else f"{style} dim strike"
        # A token may have breaks inside; the one at its end comes after its number.
        text.append(re.sub("(⏎+)(?=[^⏎])", r"\1\n", _visible(token["text"])), style)
        if ids:
            text.append(str(token["id"]).translate(_SUBSCRIPT), "dim")
        begins = token["text"].endswith("\n")
        if begins:
            text.append("\n")
    return text


def _mark(text: Text, words: str, style: str) -> None:
    """A line of ours after the tokens."""
    if text.plain and not text.plain.endswith("\n"):
        text.append("\n")
    text.append(words, f"italic {style}")


def _lengths(content: Mapping[str, Any]) -> Table:
    scan = content["scan"]
    table = Table(box=SIMPLE_HEAD, title_justify="left", pad_edge=False)
    table.title = Text(f"prompts of the first {scan['rows']:,} rows, in tokens", "bold")
    for heading in ("role", "reads", "shortest", "median", "longest", "too long"):
        table.add_column(heading, justify="left" if heading in ("role", "reads") else "right")
    for row in scan["lengths"]:
        sizes = [f"{row[key]:,}" for key in ("min", "median", "max")]
        long = Text(f"{row['too_long']:,}", "bold red" if row["too_long"] else "")
        table.add_row(row["role"], row["view"], *sizes, long)
    return table


def _remarks(scan: Mapping[str, Any]) -> Iterator[Text]:
    """What to look at before training, with how many rows it is true of."""
    found = [(note["note"], note["rows"]) for note in scan["notes"]]
    broken = scan["broken"]
    if broken["rows"]:
        found.insert(0, (f"no prompt can be made: {broken['first']}", broken["rows"]))
    for note, rows in found:
        which = "every row" if rows == scan["rows"] else f"{rows:,} of {scan['rows']:,} rows"
        yield Text.assemble(("! ", "bold yellow"), (f"{which} · ", "bold"), _plain(note))
    if not found:
        yield Text.assemble(("✓ ", "bold green"), "nothing to remark")


def _visible(text: str) -> str:
    """A token's text, line breaks and nothings made visible."""
    return _plain(text).replace("\n", "⏎") or "◦"


def _plain(text: str) -> str:
    """Text without characters that act on a terminal: control codes as pictures, turns of the
    writing direction as their numbers."""
    return "".join(map(_harmless, text))


def _harmless(character: str) -> str:
    code = ord(character)
    if character == "\n":
        return character
    if code < 32 or code == 127:
        return chr(0x2421 if code == 127 else 0x2400 + code)
    if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") or character in _TURNS:
        return f"⟨{code:04X}⟩"
    return character
