"""The texts of a preview, the same in a terminal and on a page. They contain texts of rows and
models unescaped: the terminal's and the page's code must escape them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Plain = Mapping[str, Any]
"""A part of the result of `opsd.preview.rows.preview`."""

LENGTHS = ("role", "reads", "shortest", "median", "longest", "too long")
"""The columns of the table of prompts' lengths, in tokens."""


def title(content: Plain) -> str:
    return f"{content['method']} on {content['model']}"


def facts(content: Plain) -> dict[str, str]:
    """Facts about all rows, by topic."""
    limits, named = content["limits"], content["tokens"]
    count = "a stream" if content["problems"] is None else f"{content['problems']:,} problems"
    whose = "the model's context" if limits["limit"] < limits["max_length"] else "max_length"
    long = "is left out" if limits["prompt_too_long"] == "skip" else "stops the run"
    ends = f"{named['end']['text']}, in the loss like any other token"
    if named["pad"] and named["pad"]["id"] == named["end"]["id"]:
        ends += "; padding, the same token, never is"
    return {
        "data": f"{content['data']}, {count}",
        **({"left out": "\n".join(content["left_out"])} if content["left_out"] else {}),
        "a step": content["step"],
        "limits": f"prompt and reply {limits['limit']:,} tokens ({whose}), the reply"
        f" {limits['max_completion_length']:,}; a row too long {long}",
        "a reply ends": ends,
    }


def row_title(row: Plain) -> str:
    return f"{row['language']} · answer {row['answer']} · {row['problem']}"


def reader(view: Plain) -> str:
    """The reader of a prompt, and its weights."""
    name = view["role"] if view["role"] == view["view"] else f"{view['role']} · {view['view']}"
    return f"{name} ({view['weights']} weights)"


def room(view: Plain, limits: Plain) -> str:
    """A prompt's length, and whether the reply fits after it."""
    left = f"room for only {limits['limit'] - view['length']:,}"
    fits = f"a reply of {view['reply']:,} fits" if view["fits"] else left
    return f"{view['length']:,} tokens, {fits}"


def learned(reply: Plain) -> list[bool]:
    """Which of a reply's tokens are in the loss of any signal."""
    return [any(marks) for marks in zip(*(s["in_loss"] for s in reply["signals"]), strict=True)]


def in_loss(reply: Plain) -> Iterator[str]:
    """Yields, for each signal, which of the reply's tokens are in its loss."""
    for signal in reply["signals"]:
        yield f"{signal['signal']}: {_range(signal['in_loss'], reply['tokens'])}"


def exceptions(row: Plain) -> Iterator[str]:
    """Yields how a row's example of a reply differs from a rollout."""
    for role in row["not_taught"]:
        yield f"{role}: reads nothing for this reply"
    if row["reply"]["longer_than_a_rollout"]:
        yield "longer than a rollout may be: it would be cut off, without its end"


def lengths_title(scan: Plain) -> str:
    return f"prompts of the first {scan['rows']:,} rows, in tokens"


def remarks(scan: Plain) -> Iterator[tuple[str, str]]:
    """Yields what to look at before training: how many rows it concerns, and what it is."""
    found = [(note["note"], note["rows"]) for note in scan["notes"]]
    broken = scan["broken"]
    if broken["rows"]:
        found.insert(0, (f"no prompt can be built: {broken['first']}", broken["rows"]))
    for note, rows in found:
        yield "every row" if rows == scan["rows"] else f"{rows:,} of {scan['rows']:,} rows", note


def mark(text: str) -> str:
    """A token's text on one line; line breaks and further tokens of a character become marks."""
    return text.replace("\n", "⏎") or "◦"


def _range(marks: Sequence[bool], read: Sequence[Plain]) -> str:
    inside = [i for i, kept in enumerate(marks) if kept]
    if not inside:
        return "no token in the loss"
    first, last = (mark(read[i]["text"]) for i in (inside[0], inside[-1]))
    count = "all" if len(inside) == len(read) else f"{len(inside)} of"
    end = "the end included" if inside[-1] == len(read) - 1 else "the end left out"
    return f"{count} {len(read)} in the loss, from '{first}' to '{last}', {end}"


ANSWERS = ("who answers", "right", "95 %", "form", "language", "cut off", "tokens")
"""The columns of the table of measured answers."""


def measured_title(measured: Plain) -> str:
    times = measured["samples"]
    often = "once" if times == 1 else f"{times} times"
    return f"measured on {measured['problems']:,} problems, each answered {often}"


def answers(measured: Plain) -> Iterator[tuple[str, ...]]:
    """Yields a row of texts for each reader: how well it answers."""
    for row in measured["answers"]:
        right = row["right"]
        interval = f"{right['low']:.0%} to {right['high']:.0%}"
        shares = (row["format_rate"], row["fidelity"], row["cut_off"])
        written = ["-" if share is None else f"{share:.0%}" for share in shares]
        yield row["reader"], f"{right['value']:.0%}", interval, *written, f"{row['tokens']:.0f}"


def distance(measured: Plain) -> Iterator[str]:
    """Yields how far student and teacher are apart, and where."""
    nats = f"{measured['nats']:.3g} nats per token"
    yield f"On its own rollouts the student is {nats} from its teacher."
    pairs = [
        f"'{mark(row['student'])}' not '{mark(row['teacher'])}' ({row['share']:.0%})"
        for row in measured["strongest"]
    ]
    yield f"Most of this is where it writes {', '.join(pairs)}."


def positions(measured: Plain) -> Iterator[tuple[str, float, str]]:
    """Yields the distance by position: the first token, the share of the largest value, and
    nats."""
    parts = measured["by_position"]
    most = max(part["nats"] for part in parts) or 1.0
    for part in parts:
        yield f"{part['from']:,}", part["nats"] / most, f"{part['nats']:.3g}"
