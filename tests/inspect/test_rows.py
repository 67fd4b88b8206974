"""Which traces are read, and what is said of those that cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from opsd.inspect.rows import Traced, load_traces, within
from opsd.types import UserError

from .folders import old_row, row, run


def test_traces_of_several_files_come_by_step(tmp_path: Path):
    run(tmp_path, [row(4), row(0)])
    run(tmp_path, [row(2)], "checkpoint-2")
    found = load_traces([tmp_path])
    # A file of training counts steps from 0, the log from 1; a checkpoint has taken its steps.
    assert [(one.step, one.checkpoint) for one in found] == [(1, False), (2, True), (5, False)]
    assert [traced.step for traced in load_traces([tmp_path], [2, 5])] == [2, 5]


def test_a_folder_of_runs_is_all_of_them(tmp_path: Path):
    run(tmp_path / "one" / "swa", [row()])
    run(tmp_path / "two" / "swa", [row()])
    runs = [tmp_path / "one", tmp_path / "two" / "swa"]
    assert [traced.run for traced in load_traces(runs)] == ["one/swa", "two/swa"]


def test_a_half_written_line_is_left_for_later(tmp_path: Path):
    file = run(tmp_path, [row()]) / "traces" / "rank0.jsonl"
    file.write_text(file.read_text() + '{"step": 2')
    assert len(load_traces([tmp_path])) == 1


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ({"tokens": None}, "tokens: Input should be a valid list"),
        ({"readers": [{"name": "student"}]}, "readers.0.top: Field required"),
        ({"signals": [{"type": "distill", "value": [0.1]}]}, "1 values of 'value' for 6 tokens"),
    ],
)
def test_a_damaged_line_is_named(tmp_path: Path, damage: dict, told: str):
    run(tmp_path, [row(), {**row(), **damage}])
    with pytest.raises(UserError, match=r"rank0\.jsonl, line 2: not a trace") as error:
        load_traces([tmp_path])
    assert told in str(error.value)


def test_no_traces_and_how_to_get_some(tmp_path: Path):
    with pytest.raises(UserError, match=r"no such folder"):
        load_traces([tmp_path / "absent"])
    with pytest.raises(UserError, match=r"train\.trace_steps=25.*--checkpoint"):
        load_traces([tmp_path])
    run(tmp_path, [row(0), row(6)])
    with pytest.raises(UserError, match="no trace of step 3; steps with traces: 1, 7"):
        load_traces([tmp_path], [3])


def test_a_page_has_room_for_whole_steps():
    traced = [Traced("run", row(step)) for step in range(0, 100, 10) for _ in range(2)]
    assert within(traced, 1000) == (traced, [])
    kept, left_out = within(traced, 48)
    assert sorted({one.step for one in kept}) == [1, 31, 61, 91]
    assert len(kept) == 8 and len(left_out) == 6
    assert {one.step for one in within(traced, 24)[0]} == {1, 91}
    # A step is never cut, even where it alone is too much.
    assert {one.step for one in within(traced, 3)[0]} == {1}


def test_old_traces_are_read(tmp_path: Path):
    assert load_traces([run(tmp_path, [old_row()])])[0].tokens[0] == "Ji"
