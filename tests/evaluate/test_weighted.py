"""A suite in splits: its score is the weighted mean of theirs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from opsd.evaluate.compare import compare
from opsd.evaluate.results import results, write
from opsd.evaluate.samples import claim_of, described, locked, protocol
from opsd.prompts.contexts import StudentPrompt
from opsd.rollout.engine import Sampling
from opsd.suites.loading import SUITES
from opsd.suites.published import Ours, ours
from opsd.types import UserError

from .folders import evaluated, rows

LEVELS = SUITES["polymath"].splits


def level(split: str, *right: bool, language: str = "swa") -> list[dict[str, Any]]:
    """A problem of a level per truth value, each answered twice alike."""
    made = {f"{split}{n}": [yes, yes] for n, yes in enumerate(right)}
    return rows(made, split=split, suite="polymath", language=language)


def scored(made: list[dict[str, Any]]) -> dict[str, Any]:
    (row,) = results("m", "polymath", made, (8,), 2, LEVELS)
    return row


def test_a_level_counts_by_its_weight_and_not_by_its_problems():
    made = [*level("low", True, True), *level("medium", True, False)]
    made += [*level("high", False, False), *level("top", True, False, False, False)]
    row = scored(made)
    assert row["avg@k"] == pytest.approx((1 * 1 + 2 * 0.5 + 4 * 0 + 8 * 0.25) / 15)
    assert row["pass@k"] == row["avg@k"] == row["format_rate"]
    assert row["pass_curve"] == pytest.approx([row["avg@k"]] * 2)
    assert (row["n_problems"], row["samples"], row["accuracy_given_format"]) == (10, 2, 1.0)
    assert {s: part["avg@k"] for s, part in row["splits"].items()} == {
        "low": 1.0,
        "medium": 0.5,
        "high": 0.0,
        "top": 0.25,
    }
    low, high = row["interval"]
    assert 0 <= low < row["avg@k"] < high <= 1


def test_all_right_is_one_and_all_wrong_is_nought():
    for right in (True, False):
        row = scored([r for split in LEVELS for r in level(split, right, right)])
        low, high = row["interval"]
        assert row["avg@k"] == float(right) and low <= float(right) <= high and high - low > 0.1
        assert row["accuracy_given_format"] == (1.0 if right else None)


def test_splits_that_were_not_asked_do_not_count():
    row = scored([*level("medium", True), *level("high", False)])
    assert row["avg@k"] == pytest.approx(2 / 6) and set(row["splits"]) == {"medium", "high"}


def test_a_comparison_weighs_levels_as_their_scores_do(tmp_path: Path):
    right = {
        "base": {"low": (True, False), "top": (False, False)},
        "tuned": {"low": (False, False), "top": (True, False)},
    }
    for model, by_level in right.items():
        made = [row for split, answers in by_level.items() for row in level(split, *answers)]
        folder = evaluated(tmp_path / model / "polymath", made, model, budgets=(8,))
        write(folder, 1.0, results(model, "polymath", made, (8,), 2, LEVELS))
    first, *_ = compare([tmp_path])["comparisons"]
    assert (first["metric"], first["n_problems"]) == ("avg@k", 4)
    assert first["baseline"] == pytest.approx(1 * 0.5 / 9)
    assert first["value"] == pytest.approx(8 * 0.5 / 9)
    assert first["difference"] == pytest.approx(3.5 / 9)
    assert (first["wins"], first["losses"]) == (1, 1)


def pair(
    place: Path, base: list[dict[str, Any]], tuned: list[dict[str, Any]], **claim: Any
) -> list[Path]:
    """Two evaluations without a `result.json`, with this beside what their claims say."""
    folders = []
    for model, made in (("base", base), ("tuned", tuned)):
        folder = evaluated(place / model / "suite", made, model, budgets=(8,))
        file = folder / "protocol.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | claim))
        folders.append(folder)
    return folders


def test_a_comparison_needs_no_results_and_is_not_misled_by_the_newest(tmp_path: Path):
    base, tuned = [*level("low", True), *level("top", False)], [*level("low", True)]
    folders = pair(tmp_path, base, [*tuned, *level("top", True)])
    assert compare(folders)["comparisons"][0]["difference"] == pytest.approx(8 / 9)
    for folder in folders:  # what `--split top` leaves
        write(folder, 1.0, results("m", "polymath", level("top", True), (8,), 2, {"top": 8}))
    assert compare(folders)["comparisons"][0]["difference"] == pytest.approx(8 / 9)


def own(made: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**row, "suite": "mine"} for row in made]


def test_weights_of_a_suite_of_ones_own_are_those_of_its_claim(tmp_path: Path):
    base = own([*level("low", True), *level("top", False)])
    tuned = own([*level("low", True), *level("top", True)])
    folders = pair(tmp_path / "a", base, tuned, splits={"low": 1, "top": 3})
    assert compare(folders)["comparisons"][0]["difference"] == 0.75
    with pytest.raises(UserError, match=r"tuned/suite: split 'top' has no weight there"):
        compare(pair(tmp_path / "b", base, tuned, splits={"low": 1}))


def test_a_gain_that_is_the_same_all_over_each_split_is_sure_of_two_languages(tmp_path: Path):
    def made(top: bool) -> list[dict[str, Any]]:
        rows = [level(s, *[top if s == "top" else False] * 5, language=c) for c, s in cells]
        return [{**row, "problem": f"{row['language']}{row['problem']}"} for r in rows for row in r]

    cells = [(code, split) for code in ("swa", "tel") for split in ("low", "top")]
    told = compare(pair(tmp_path, made(False), made(True)))["comparisons"]
    assert {row["language"] for row in told} == {"swa", "tel", "all"}
    for row in told:
        assert row["difference"] == pytest.approx(8 / 9)
        low, high = row["interval"]
        assert low < 8 / 9 < high <= 1
        assert (low > 0) == (row["p"] < 0.05) == (row["language"] == "all")


def test_languages_aside_in_a_suite_of_ones_own_are_not_pooled(tmp_path: Path):
    def made(right: bool) -> list[dict[str, Any]]:
        spoken = ("swa", "zul", "eng")
        every = [rows({c: [right]}, language=c, suite="mine") for c in spoken]
        return [row for own in every for row in own]

    told = compare(pair(tmp_path, made(False), made(True), aside=["eng"]))["comparisons"]
    pooled = next(row for row in told if row["language"] == "all")
    assert pooled["n_problems"] == 2


def test_a_folder_keeps_the_weights_of_all_calls_and_older_ones_have_none(
    tmp_path: Path, tiny_folder: Path
):
    how = protocol(StudentPrompt(), Sampling(), (8,))

    def hold(splits: dict[str, float] | None, aside: list[str] | None) -> dict[str, Any]:
        with locked(tmp_path, described(how, str(tiny_folder), ["swa"], "", splits, aside)):
            return claim_of(tmp_path) or {}

    assert hold({"low": 1}, ["eng"]) == {}
    (tmp_path / "samples.jsonl").write_text("{}\n")
    both = hold({"top": 8}, None)
    assert (both["splits"], both["aside"]) == ({"low": 1, "top": 8}, ["eng"])
    with pytest.raises(UserError, match="of another kind: other weights of splits, other lang"):
        hold({"top": 4}, ["fra"])
    for name in ("splits", "aside"):
        both.pop(name)
    (tmp_path / "protocol.json").write_text(json.dumps(both))
    older = hold({"top": 4}, ["fra"])
    assert (older["splits"], older["aside"]) == ({"top": 4}, ["fra"])


def test_a_number_of_one_split_answers_to_that_split_alone():
    row = {"model": "m", "suite": "polymath", "language": "swa", "samples": 12, "budget": 8192}
    row |= {"n_problems": 500, "pass@k": 0.5}
    parts = {split: {"n_problems": 125, "pass@k": 0.1 * n} for n, split in enumerate(LEVELS)}
    number = {"suite": "polymath", "metric": "pass@12", "value": 9.0, "language": "swa"}
    number["budget"] = 8192
    whole = {**row, "splits": parts}
    assert ours({**number, "split": "high"}, [whole]) == [Ours("m", 8192, 0.2)]
    assert ours(number, [whole]) == [Ours("m", 8192, 0.5)]
    assert ours({**number, "split": "high"}, [row]) == []
    parts["high"]["n_problems"] = 12
    assert ours({**number, "split": "high"}, [whole]) == []
    assert ours(number, [{**whole, "n_problems": 250}]) == []
    assert ours({**number, "metric": "pass@12 gain", "split": "high"}, [whole]) == []
