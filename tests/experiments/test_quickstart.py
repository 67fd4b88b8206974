"""The quickstart's own promises: equal tokens, an honest control, a replaced folder."""

from __future__ import annotations

import json

import pytest

from opsd.data.controls import shuffled
from opsd.experiments.quickstart import Plan, _clear, run
from opsd.miniature.world import problems
from opsd.types import UserError


@pytest.mark.slow
def test_a_small_quickstart_has_every_row_sample_and_page(tmp_path):
    output = tmp_path / "quickstart"
    plan = Plan(languages=("swa",), seeds=(0,), problems=6, tokens=1500, control=("swa",))
    result = run(output, plan)
    rows = {row["method"]: row for row in result["results"]}
    assert list(rows) == ["base", "grpo", "copsd"]
    assert [row["method"] for row in result["control"]] == ["copsd_shuffled"]
    assert rows["base"]["generated_tokens"] == 0
    for method in ("grpo", "copsd"):
        # Training ends with the step that reaches the budget: at most one step beyond it.
        assert 1500 <= rows[method]["generated_tokens"] < 1500 + 32 * 48
    for row in rows.values():
        low, high = row["interval"]
        assert 0 <= low <= row["avg@4"] <= high <= 1
        assert row["avg@4"] <= row["pass@4"] <= 1
    assert json.loads((output / "result.json").read_text()) == result
    samples = [json.loads(line) for line in (output / "samples.jsonl").read_text().splitlines()]
    assert {s["method"] for s in samples} == {"base", "grpo", "copsd", "copsd_shuffled"}
    assert "<html" in (output / "report.html").read_text()


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="not a quickstart"):
        run(tmp_path, Plan(("swa",), (0,), 1, 1))
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


OWN = ("quickstart.json", "report.html", "swa-grpo-seed0/rollouts/rank0.jsonl")
DRAFT = "result.json.123-456.part"


def left_behind(folder, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


def test_what_a_quickstart_has_written_is_replaced(tmp_path):
    left_behind(tmp_path, *OWN, DRAFT)
    _clear(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["quickstart.json"]


@pytest.mark.parametrize(
    "name",
    ["thesis.tex", "swa-grpo-seed0/notes.txt", "swa-grpo-seed0/rollouts/x/mine", "mine/env.json"],
)
def test_what_the_user_has_put_among_it_is_named_and_stays(tmp_path, name):
    left_behind(tmp_path, *OWN, name)
    with pytest.raises(UserError, match=f"{name} would be lost"):
        _clear(tmp_path)
    assert all((tmp_path / file).is_file() for file in (*OWN, name))


def test_a_link_is_not_followed(tmp_path):
    left_behind(tmp_path / "far", "env.json")
    left_behind(tmp_path / "near", *OWN)
    (tmp_path / "near" / "swa-base-seed0").symlink_to(tmp_path / "far")
    with pytest.raises(UserError, match="swa-base-seed0 would be lost"):
        _clear(tmp_path / "near")
    assert (tmp_path / "far" / "env.json").is_file()


def test_the_control_deals_the_same_texts_to_other_problems():
    given = problems("miniature", "train", "swa", 50)
    dealt = shuffled(given, seed=0)
    assert [p.text for p in dealt] == [p.text for p in given]
    assert sorted(p.privileged["solution"] for p in dealt) == sorted(
        p.privileged["solution"] for p in given
    )
    moved = sum(a.privileged != b.privileged for a, b in zip(dealt, given, strict=True))
    assert moved > 40


def test_what_a_kill_leaves_of_a_quickstarts_beginning_is_replaced(tmp_path):
    (tmp_path / "quickstart.json.17-4.part").write_text("{")
    left_behind(tmp_path, "swa-grpo-seed0/checkpoint-1/opsd/state.json")  # of a signal
    _clear(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["quickstart.json"]
