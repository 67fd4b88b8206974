"""A minute of every kind of fault; and the judges of the campaign can say no."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest
from tests.faults import ends, inputs, page, values
from tests.faults.damage import judged
from tests.faults.processes import ROOT, Ended
from tests.faults.tally import FAILURES, HANG, LOST, TRACEBACK, UNCLEAR, UNEQUAL, Outcome, Tally


@pytest.mark.slow
def test_a_minute_of_faults_breaks_nothing(tmp_path: Path):
    file = tmp_path / "faults.json"
    command = [sys.executable, "-m", "tests.faults", "--minutes", "1", "--json", str(file)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=3600)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    tally = Tally.read(file)
    kinds = {kind.partition(" ")[0].strip(",:") for kind in tally.counts}
    assert {"kill", "damage", "full", "input"} <= kinds and tally.tried > 300


@pytest.mark.slow
def test_a_forked_process_does_what_one_does_that_begins_with_python(tmp_path: Path):
    script = (
        "from pathlib import Path\n"
        "from tests.faults import ends, processes\n"
        "from tests.faults.commands import World\n"
        f"world = World(Path({str(tmp_path)!r}))\n"
        "processes.prepare()\n"
        "command = world.command('train (everything)')\n"
        "place = world.place('anew')\n"
        "ended = processes.started(command.begin(place / 'out'), place)\n"
        "assert ended.code == 0, ended.told\n"
        "ours, whole = command.end(place / 'out'), world.whole(command).end\n"
        "print(ends.lost(ours, whole) or ends.unequal(ours, whole) or 'equal')\n"
    )
    # A process of its own: one in which torch has computed cannot be forked.
    made = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert made.stdout.strip() == "equal", made.stdout + made.stderr


WHOLE: ends.End = {"rows": [(1, "a"), (2, "b")], ends.KEPT: [("checkpoint-2/ema", {"w": "1"})]}


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([(1, "a")], "rows: 2 is there 0 times instead of 1"),
        ([(1, "a"), (2, "b"), (2, "b")], "rows: 2 is there 2 times instead of 1"),
        ([(1, "a"), (2, "b"), (3, "c")], "rows: 3 is there 1 times instead of 0"),
        ([(1, "a"), (2, "b")], ""),
    ],
)
def test_what_is_lost_or_doubled_is_told(rows: list[tuple[int, str]], told: str):
    assert ends.lost({"rows": rows, ends.KEPT: []}, WHOLE) == told


def test_what_differs_is_told():
    kept = {ends.KEPT: [("checkpoint-2/ema", {"w": "2"})]}
    assert "2 differs: 'c', 'b'" in ends.unequal({**WHOLE, "rows": [(2, "c")]}, WHOLE)
    assert "checkpoint-2/ema differs" in ends.unequal({**WHOLE, **kept}, WHOLE)
    assert ends.unequal({**WHOLE, ends.KEPT: []}, WHOLE) == ""


def test_a_file_that_nobody_can_read_is_named(tmp_path: Path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"half')
    (tmp_path / "draft.part").mkdir()
    (tmp_path / "draft.part" / "x.json").write_text("{")
    (tmp_path / "checkpoint-1").mkdir()  # not sealed: nothing is expected of it
    (tmp_path / "checkpoint-1" / "x.json").write_text("{")
    assert ends.unreadable(tmp_path) == ""
    (tmp_path / "model.safetensors").write_text("{")
    assert "model.safetensors" in ends.unreadable(tmp_path)


@pytest.mark.parametrize(
    ("ended", "failed"),
    [
        (Ended(0, "", 1.0), ""),
        (Ended(2, "opsd: place/file.json: cannot be read", 1.0), ""),
        (Ended(2, "opsd: something is wrong", 1.0), UNCLEAR),
        (Ended(1, "Traceback (most recent call last):\nValueError: file.json", 1.0), TRACEBACK),
        (Ended(None, "", 180.0), HANG),
    ],
)
def test_an_end_after_damage_is_judged(ended: Ended, failed: str):
    file = Path("place/file.json")
    assert judged(ended, file, file.parent, lambda _: "")[0] == failed
    assert ended.code != 0 or judged(ended, file, file.parent, lambda _: "x")[0] == UNEQUAL


def test_tallies_add_up_over_calls_and_make_the_page(tmp_path: Path):
    one, other = Tally(seconds=60.0), Tally(seconds=30.0)
    one.add([Outcome("kill train"), Outcome("kill train", LOST, "step 3")])
    other.add([Outcome("kill train"), Outcome("input: row")])
    one.write(tmp_path / "faults.json")
    total = Tally.read(tmp_path / "faults.json") + other
    assert (total.tried, total.failures, total.seconds) == (4, 1, 90.0)
    page.write(total, tmp_path / "page.md")
    written = (tmp_path / "page.md").read_text()
    assert "from 4 tries" in written and "1 failed" in written
    assert "| kill train | 3 | 1 | 0 | 0 | 0 | 0 |" in written
    assert all(name in written for name in FAILURES)


def test_inputs_are_as_odd_as_they_are_meant_to_be(tmp_path: Path):
    rows = [values.row(random.Random(seed)) for seed in range(300)]
    assert len({row[:1] for row in rows}) > 2 and any(b"NaN" in row for row in rows)
    receive = inputs.kinds(tmp_path)["row"]
    said = [receive(seed) for seed in range(300)]
    assert {"fine", "one line"} == set(said) and min(map(said.count, set(said))) > 30
