"""Prints the results of a check on standard output."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from opsd.pages.visible import plain

Plain = Mapping[str, Any]

MARKS = {"error": "✗", "warning": "!", "note": "·"}
"""The mark before a finding, by its level."""
_STYLES = {"error": "bold red", "warning": "bold yellow", "note": "dim"}

LANGUAGES = ("language", "problems", "tokens, median", "per word", "vs. translation")
"""The columns of the table of languages."""


def show(content: Plain) -> None:
    """Prints the findings, the worst first, the languages, and a summary line."""
    console = Console(highlight=False)
    for finding in content["findings"]:
        for line in _finding(finding):
            console.print(line, soft_wrap=True)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for number, heading in enumerate(LANGUAGES):
        table.add_column(heading, justify="right" if number else "left")
    for row in languages(content):
        table.add_row(*row)
    console.print(table)
    console.print(Text(closing(content), "bold"), soft_wrap=True)


def _finding(finding: Plain) -> Iterator[Text]:
    level = finding["level"]
    head = Text.assemble((f"{MARKS[level]} ", _STYLES[level]), (rows(finding), "bold"), " ")
    yield head.append(plain(finding["what"]))
    for example in finding["examples"]:
        told = f": {example['told']}" if example["told"] else ""
        yield Text(plain(f"    {example['where']}{told}"), "dim")
    yield Text(f"    fix: {finding['mend']}")


def rows(finding: Plain) -> str:
    """How many rows a finding concerns."""
    n, of = finding["rows"], finding["of"]
    return f"{n:,} of {of:,} ({n / of:.1%})"


def languages(content: Plain) -> list[Sequence[str]]:
    """The rows of the table of languages; without a tokenizer, tokens are not counted."""
    made = []
    for row in content["languages"]:
        beside = row.get("beside_translation")
        counted = (
            f"{row['tokens']:,}" if "tokens" in row else "-",
            f"{row['per_word']:.2f}" if "per_word" in row else "-",
            f"{beside:.2f} times" if beside else "-",
        )
        made.append((row["name"], f"{row['problems']:,}", *counted))
    return made


def closing(content: Plain) -> str:
    """The number of findings of each level, and what was compared."""
    levels = [finding["level"] for finding in content["findings"]]
    counts = {level: levels.count(level) for level in MARKS if level in levels}
    kinds = [f"{n} {level}{'s' * (n > 1)}" for level, n in counts.items()] or ["nothing found"]
    suites = content["suites"]
    beside = f"compared with {', '.join(suites)}" if suites else "not compared with any suite"
    return f"{content['problems']:,} problems: {', '.join(kinds)}; {beside}"
