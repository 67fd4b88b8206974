"""Progress: what is left at the pace so far, lines where nobody looks, tables that fit."""

from __future__ import annotations

import pytest
from rich.console import Console
from rich.table import Column, Table

from opsd import console
from opsd.console import counting, in_width


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    return now


def test_without_a_terminal_a_count_is_a_line_every_half_minute(clock, capsys, monkeypatch):
    monkeypatch.setattr(console, "remaining", lambda task: 90.4)
    with counting("m on suite", 100, "sample") as advance:
        for second in range(1, 71):
            clock[0] = float(second)
            advance(1, 10, "right 0.500 (1 of 2)" if second == 20 else None)
    assert capsys.readouterr().err.splitlines() == [
        "m on suite  31/100, 0:01:30 left  right 0.500 (1 of 2)  310 tokens, 10/s",
        "m on suite  62/100, 0:01:30 left  right 0.500 (1 of 2)  620 tokens, 10/s",
    ]


class Task:
    def __init__(self, completed: float, total: float, elapsed: float, begun: float = 0) -> None:
        self.completed, self.total, self.elapsed = completed, total, elapsed
        self.fields = {"begun": begun}


def test_what_is_left_follows_from_the_pace_since_the_beginning():
    assert console.remaining(Task(0, 10, 5.0)) is None
    assert console.remaining(Task(0.5, 10, 60.0)) == pytest.approx(60 * 19)  # within a step
    assert console.remaining(Task(6, 10, 40.0, begun=4)) == pytest.approx(80)  # a resumed run


def test_a_table_that_is_too_wide_becomes_several_that_begin_alike():
    names = [f"column{i}" for i in range(12)]
    table = Table(*(Column(name, no_wrap=True) for name in names), box=None, title="all")
    table.add_row(*names)
    parts = list(in_width(table, 50, keys=2))
    assert [part.title for part in parts] == ["all", *[None] * (len(parts) - 1)]
    heads = [[column.header for column in part.columns] for part in parts]
    assert all(head[:2] == names[:2] for head in heads)
    assert [name for head in heads for name in head[2:]] == names[2:]
    measured = Console(width=1000)
    assert all(measured.measure(part).maximum <= 50 for part in parts) and len(parts) > 2
    (whole,) = in_width(table, 400, keys=2)
    assert [column.header for column in whole.columns] == names
