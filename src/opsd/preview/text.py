"""Prints a preview on standard output. Every text of a row or of a model is printed as plain
characters: neither markup nor a terminal's control codes take effect."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.box import ROUNDED, SIMPLE_HEAD
from rich.console import Console, Group
from rich.panel import Panel
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from opsd.pages.visible import plain
from opsd.preview import words

WIDTH = 110
_HEAD, _TAIL = 40, 12
_BAR = 40
_STYLES = {"text": "", "special": "bold magenta", "forced": "yellow"}
_ROLES = {"student": "cyan", "sampler": "blue", "second try": "blue"}
_SUBSCRIPT = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


def show(content: Mapping[str, Any], ids: bool = False) -> None:
    """Prints the result of `preview`; `ids` adds every token's id."""
    console = Console(highlight=False)
    console.width = min(console.width, WIDTH)
    console.print(_headline(content))
    for number, row in enumerate(content["rows"], 1):
        console.print()
        title = f"row {number} · {words.row_title(row)}"
        console.print(Rule(Text(plain(title), "bold"), align="left", style="dim"))
        for view in row["views"]:
            console.print(_prompt(view, content["limits"], ids))
        console.print(_reply(row, ids))
    console.print()
    console.print(_lengths(content))
    for remark in _remarks(content["scan"]):
        console.print(remark, soft_wrap=True)  # a command in it can be copied whole
    if "measured" in content:
        console.print()
        for part in _measured(content["measured"]):
            console.print(part)


def _headline(content: Mapping[str, Any]) -> Group:
    marks = "│ between tokens, ⏎ a line break, ◦ a further token of the same character"
    grid = Table.grid(padding=(0, 2))
    for name, fact in {**words.facts(content), "marks": marks}.items():
        grid.add_row(Text(name, "dim"), Text(plain(fact)))
    return Group(Text(plain(words.title(content)), "bold"), grid)


def _prompt(view: Mapping[str, Any], limits: Mapping[str, Any], ids: bool) -> Panel:
    """A role's prompt, and whether the reply fits after it."""
    read = view["tokens"]
    forced = next((i for i, token in enumerate(read) if token["kind"] == "forced"), len(read))
    body = _joined(read[:forced], ids)
    if forced < len(read):
        _mark(body, "▸ forced beginning of the reply: in no loss, in no budget", "yellow")
        body.append("\n").append_text(_joined(read[forced:], ids))
    _mark(body, "▾ the reply begins here", "green")
    fits = Text(words.room(view, limits), "" if view["fits"] else "bold red")
    return _panel(body, words.reader(view), fits, _ROLES.get(view["role"], "magenta"))


def _reply(row: Mapping[str, Any], ids: bool) -> Panel:
    """The example of a reply, and which of its tokens are in each signal's loss."""
    reply = row["reply"]
    body = _joined(reply["tokens"], ids, words.learned(reply), shorten=True)
    for line in words.in_loss(reply):
        _mark(body, plain(line), "green")
    for line in words.exceptions(row):
        _mark(body, plain(line), "yellow")
    length = Text(f"{len(reply['tokens']):,} tokens")
    return _panel(body, f"reply, for example: {reply['origin']}", length, "green")


def _panel(body: Text, title: str, below: Text, colour: str) -> Panel:
    return Panel(
        body,
        box=ROUNDED,
        title=Text(title, f"bold {colour}"),
        title_align="left",
        subtitle=below,
        subtitle_align="right",
        border_style=colour,
    )


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
        # A token may have line breaks inside; the one at its end comes after its id.
        text.append(re.sub("(⏎+)(?=[^⏎])", r"\1\n", words.mark(plain(token["text"]))), style)
        if ids:
            text.append(str(token["id"]).translate(_SUBSCRIPT), "dim")
        begins = token["text"].endswith("\n")
        if begins:
            text.append("\n")
    return text


def _mark(text: Text, words: str, style: str) -> None:
    """Appends an annotation after the tokens, on its own line."""
    if text.plain and not text.plain.endswith("\n"):
        text.append("\n")
    text.append(words, f"italic {style}")


def _lengths(content: Mapping[str, Any]) -> Table:
    scan = content["scan"]
    table = Table(box=SIMPLE_HEAD, title_justify="left", pad_edge=False)
    table.title = Text(words.lengths_title(scan), "bold")
    for heading in words.LENGTHS:
        table.add_column(heading, justify="left" if heading in ("role", "reads") else "right")
    for row in scan["lengths"]:
        sizes = [f"{row[key]:,}" for key in ("min", "median", "max")]
        long = Text(f"{row['too_long']:,}", "bold red" if row["too_long"] else "")
        table.add_row(row["role"], row["view"], *sizes, long)
    return table


def _measured(measured: Mapping[str, Any]) -> Iterator[Any]:
    """Yields the measurements of the teacher, and at the end, where it is visible, the verdict."""
    table = Table(box=SIMPLE_HEAD, title_justify="left", pad_edge=False)
    table.title = Text(words.measured_title(measured), "bold")
    for number, heading in enumerate(words.ANSWERS):
        table.add_column(heading, justify="right" if number else "left")
    for row in words.answers(measured):
        table.add_row(*row)
    yield table
    for line in words.distance(measured):
        yield Text(plain(line))
    yield Text()
    grid = Table.grid(padding=(0, 2))
    grid.add_row(Text("token", "dim"), Text("nats", "dim"), "")
    for position, share, nats in words.positions(measured):
        grid.add_row(position, nats, Text("█" * max(1, round(share * _BAR)), "cyan"))
    yield grid
    for line in measured["not_measured"]:
        yield Text(f"not measured: {plain(line)}", "dim")
    yield Text()
    yield Text(measured["verdict"].capitalize(), "bold")
    for reason in measured["reasons"]:
        yield Text(f"- {plain(reason)}")


def _remarks(scan: Mapping[str, Any]) -> Iterator[Text]:
    found = list(words.remarks(scan))
    for which, note in found:
        yield Text.assemble(("! ", "bold yellow"), (f"{which} · ", "bold"), plain(note))
    if not found:
        yield Text.assemble(("✓ ", "bold green"), "nothing to remark")
