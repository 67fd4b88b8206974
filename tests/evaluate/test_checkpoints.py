"""A checkpoint is chosen on dev; what a choice on test would flatter is measured."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from opsd.evaluate.checkpoints import optimism, selection, selections
from opsd.evaluate.results import results
from opsd.evaluate.show import means
from opsd.suites.files import Suite
from opsd.types import Problem

from .folders import evaluated, rows

SUITE = Suite(name="suite")


def test_the_choice_is_devs_and_the_score_is_tests():
    scores = {
        10: {("swa", ""): {"a": 0.2, "b": 0.4}, ("yor", ""): {"c": 0.0}},
        20: {("swa", ""): {"a": 1.0, "b": 0.5}, ("yor", ""): {"c": 0.0}},
        30: {("swa", ""): {"a": 0.4, "b": 0.4}, ("yor", ""): {"c": 0.5}},
    }
    told = selection(scores, {10: 0.9, 30: 0.7}, {})
    assert [row["test"] for row in told["checkpoints"]] == pytest.approx([0.15, 0.375, 0.45])
    assert told["chosen_on_dev"] == {"step": 10, "dev": 0.9, "test": pytest.approx(0.15)}
    assert told["best_on_test"]["step"] == 30
    assert selection(scores, {}, {})["chosen_on_dev"] is None


def test_among_equal_checkpoints_the_best_is_luck():
    """All have the same chance of being right: all of the best one's lead is chance, on average as
    much as the largest of eight means of 60 throws of a coin lies above one half."""
    draw = np.random.default_rng(0)
    throws = [draw.random((8, 60)) < 0.5 for _ in range(40)]
    lead = np.mean([draw.binomial(60, 0.5, 8).max() / 60 - 0.5 for _ in range(4000)])
    told = np.mean([optimism([equal.astype(float)], [1.0]) for equal in throws])
    assert told == pytest.approx(lead, rel=0.15)


def test_nothing_is_flattered_where_nothing_is_chosen():
    one = np.random.default_rng(0).random((1, 400))
    assert abs(optimism([one], [1.0])) < 0.003
    assert optimism([np.ones((5, 40))], [1.0]) == 0.0
    assert optimism([np.array([[1.0], [0.0]])], [1.0]) == 0.0  # one problem has no halves


def test_checkpoints_of_a_run_are_found_by_their_folders(tmp_path: Path):
    run = run_folder(tmp_path / "run")
    folders = {}
    for step, right in ((1, [False, False]), (2, [True, False]), (3, [True, True])):
        name = str(run / f"checkpoint-{step}")
        folders[name] = evaluated(
            tmp_path / "eval" / f"c{step}" / "suite", rows({"a": right}), name
        )
    base = evaluated(tmp_path / "eval" / "base" / "suite", rows({"a": [True, True]}), "base")
    asked = SUITE, [Problem("", answer="4", id="a", language="swa")], 2, 8
    (told,) = selections({"base": base, **folders}, *asked)
    assert told["run"] == str(run) and told["budget"] == 8
    assert told["chosen_on_dev"] == {"step": 2, "dev": 0.3, "test": 0.5}
    assert told["best_on_test"]["step"] == 3
    one = {name: folder for name, folder in folders.items() if name.endswith("-1")}
    assert selections({"base": base, **one}, *asked) == []


def run_folder(run: Path) -> Path:
    run.mkdir()
    lines = [{"step": s, "eval_avg@k": v} for s, v in ((1, 0.1), (2, 0.3), (3, 0.2))]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


def test_the_score_is_the_mean_of_the_table_above(tmp_path: Path):
    """Weighted by split, without the languages aside, and of what was asked in this call alone."""
    run = run_folder(tmp_path / "run")
    suite = replace(SUITE, splits={"low": 1, "top": 3}, aside=("eng",))
    spoken, draw = ("swa", "zul", "eng", "yor"), np.random.default_rng(0)
    keys = {(c, s, n): f"{c}{s}{n}" for c in spoken for s in ("low", "top") for n in range(4)}
    problems = [
        Problem("", answer="4", id=key, language=code, metadata={"split": split})
        for (code, split, n), key in keys.items()
        if code != "yor" and n + (split == "top") < 3
    ]
    asked = {problem.id for problem in problems}
    folders, table = {}, []
    for step in (1, 2):
        made = [
            row
            for (code, split, _), key in keys.items()
            for row in rows({key: (draw.random(4) < 0.5).tolist()}, language=code, split=split)
        ]
        name = str(run / f"checkpoint-{step}")
        folders[name] = evaluated(tmp_path / "eval" / f"c{step}" / "suite", made, name)
        own = [row for row in made if row["problem"] in asked]
        table += results(name, "suite", own, (8,), 2, suite.splits)
    (told,) = selections(folders, suite, problems, 2, 8)
    shown = [row["avg@k"] for row in means(table, suite.aside)]
    assert [row["test"] for row in told["checkpoints"]] == pytest.approx(shown)
    alone = [problem for problem in problems if problem.language == "eng"]
    (told,) = selections(folders, suite, alone, 2, 8)
    shown = [row["avg@k"] for row in table if row["language"] == "eng"]
    assert [row["test"] for row in told["checkpoints"]] == pytest.approx(shown)
