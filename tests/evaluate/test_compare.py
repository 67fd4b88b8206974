"""Paired comparisons: what pairs, what is refused, and the numbers by hand."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from opsd.evaluate.compare import compare
from opsd.evaluate.results import results, write
from opsd.grade.intervals import CHANGE, estimate
from opsd.grade.verifier import MathVerifier
from opsd.types import UserError

from .folders import evaluated, rows

ONE, TWO = (
    {"a": [True, False], "b": [False, False], "c": [True, True]},
    {
        "a": [True, True],
        "b": [True, False],
        "c": [False, True],
    },
)


def pair(folder: Path, one: Any, two: Any, **how: Any) -> list[Path]:
    return [
        evaluated(folder / "base" / "suite", one, "base"),
        evaluated(folder / "tuned" / "suite", two, "tuned", **how),
    ]


def cell(told: dict[str, Any], **wanted: Any) -> dict[str, Any]:
    (found,) = [r for r in told["comparisons"] if wanted.items() <= r.items()]
    return found


def test_numbers_are_those_of_the_problems_one_by_one(tmp_path: Path):
    told = compare(pair(tmp_path, rows(ONE), rows(TWO)))
    assert told["baseline"] == "base" and len(told["comparisons"]) == 6  # 2 budgets, 3 metrics
    average = cell(told, budget=8, metric="avg@k")
    expected = estimate([[0.5, 0.5, -0.5]], bounds=CHANGE)
    assert average == {
        **{"model": "tuned", "suite": "suite", "language": "swa", "labels": "upstream"},
        **{"budget": 8, "n_problems": 3, "metric": "avg@k"},
        **{"baseline": pytest.approx(0.5), "value": pytest.approx(2 / 3)},
        **{"difference": expected.value, "interval": list(expected.interval)},
        **{"wins": 2, "losses": 1, "ties": 0},
        # Of the eight ways to sign 0.5, 0.5 and -0.5, four come to no less.
        **{"p": 1.0, "p_adjusted": 1.0},
    }
    passing = cell(told, budget=8, metric="pass@k")
    assert (passing["baseline"], passing["value"]) == (pytest.approx(2 / 3), 1.0)
    assert (passing["wins"], passing["losses"], passing["ties"]) == (1, 0, 2)


def test_languages_are_a_family_and_what_is_pooled_is_not_of_it(tmp_path: Path):
    """One language improves throughout, two do not at all."""
    right = {f"a{i}": [i % 2 == 0] for i in range(8)}
    other = {"swa": {key: [True] for key in right}, "zul": right, "yor": right}
    base = [row for code in other for row in rows(right, language=code)]
    model = [row for code, made in other.items() for row in rows(made, language=code)]
    told = compare(pair(tmp_path, base, model))
    swa, zul, pooled = (
        cell(told, language=code, budget=4, metric="avg@k") for code in ("swa", "zul", "all")
    )
    assert swa["p"] == 2 / 16 and swa["p_adjusted"] == 3 * swa["p"]
    assert zul["p"] == zul["p_adjusted"] == 1.0
    assert pooled["p_adjusted"] == pooled["p"]


def test_the_first_folder_is_the_baseline_and_order_of_rows_is_nothing(tmp_path: Path):
    base, tuned = pair(tmp_path, rows(ONE), rows(TWO)[::-1])
    there, back = compare([base, tuned]), compare([tuned.parent, base])
    assert back["baseline"] == "tuned"
    for one, other in zip(there["comparisons"], back["comparisons"], strict=True):
        assert one["difference"] == pytest.approx(-other["difference"])
        assert (one["wins"], one["losses"]) == (other["losses"], other["wins"])


def test_an_output_folder_holds_all_models_and_overlaps_count_once(tmp_path: Path):
    base, _ = pair(tmp_path, rows(ONE), rows(TWO))
    told = compare([base, tmp_path, tmp_path])
    assert told["baseline"] == "base" and {r["model"] for r in told["comparisons"]} == {"tuned"}


def test_in_a_run_the_model_that_it_started_from_is_the_baseline(tmp_path: Path):
    pair(tmp_path / "eval", rows(ONE), rows(TWO))
    for start, other in (("base", "tuned"), ("tuned", "base")):
        (tmp_path / "env.json").write_text(json.dumps({"model": start}))
        for folder in (tmp_path, tmp_path / "eval"):
            told = compare([folder])
            assert (told["baseline"], told["comparisons"][0]["model"]) == (start, other)


@pytest.mark.parametrize("how", ["adapter", "recipe", "exported", "run"])
def test_the_model_that_another_was_trained_from_is_the_baseline_whatever_folders_are_called(
    tmp_path: Path, how: str
):
    """The trained model's folder comes first in the alphabet, and was evaluated first."""
    model = tmp_path / "a-run" / "model"
    model.mkdir(parents=True)
    if how == "adapter":
        told = {"base_model_name_or_path": "z/base"}
        (model / "adapter_config.json").write_text(json.dumps(told))
    elif how != "run":
        place = model if how == "exported" else model.parent
        (place / "recipe.yaml").write_text("model: {name: z/base}\n")
    else:
        (model.parent / "env.json").write_text(json.dumps({"model": "z/base"}))
    output = model.parent / "eval" if how == "run" else tmp_path / "eval"
    evaluated(output / "a-run_model" / "suite", rows({"p": [True]}), str(model))
    evaluated(output / "z_base" / "suite", rows({"p": [False]}), "z/base")
    told = compare([output])
    assert (told["baseline"], told["baseline_is"]) == ("z/base", "trained from")
    assert cell(told, metric="avg@k", budget=4)["difference"] == 1.0


def test_what_a_model_was_trained_from_is_kept_with_its_samples(tmp_path: Path):
    model = tmp_path / "a-run" / "model"
    model.mkdir(parents=True)
    (model / "adapter_config.json").write_text('{"base_model_name_or_path": "z/base"}')
    evaluated(tmp_path / "eval" / "a" / "suite", rows(TWO), str(model))
    evaluated(tmp_path / "eval" / "z" / "suite", rows(ONE), "z/base")
    shutil.rmtree(model)
    assert compare([tmp_path / "eval"])["baseline"] == "z/base"


def test_without_a_model_that_another_was_trained_from_the_first_evaluated_is_the_baseline(
    tmp_path: Path, capsys
):
    for name in ("z", "a"):
        evaluated(tmp_path / name / "suite", rows(ONE), name)
    told = compare([tmp_path])
    assert (told["baseline"], told["baseline_is"]) == ("z", "first")
    told = "baseline: z (the first one named, or the first one evaluated)"
    assert told in capsys.readouterr().err


def test_samples_that_are_fewer_than_the_results_were_made_of_are_refused(tmp_path: Path):
    _, tuned = pair(tmp_path, rows(ONE), rows(TWO))
    write(tuned, 1.0, results("tuned", "suite", rows(TWO), (4, 8), 2))
    compare([tmp_path])
    lines = (tuned / "samples.jsonl").read_text().splitlines(keepends=True)
    (tuned / "samples.jsonl").write_text("".join(lines[:4]))
    for common in (False, True):
        with pytest.raises(UserError, match=r"tuned/suite/samples\.jsonl: 4 samples of swa, but"):
            compare([tmp_path], common=common)


def test_languages_are_pooled_with_equal_weights(tmp_path: Path):
    draw = random.Random(0)

    def made(n: int, language: str, chance: float) -> list[dict[str, Any]]:
        right = {f"{language}{i}": [draw.random() < chance for _ in range(4)] for i in range(n)}
        return rows(right, language=language)

    one = [*made(40, "swa", 0.3), *made(5, "zul", 0.3)]
    two = [*made(40, "swa", 0.6), *made(5, "zul", 0.9)]
    told = compare(pair(tmp_path, one, two))
    swa, zul, pooled = (
        cell(told, language=name, budget=4, metric="avg@k") for name in ("swa", "zul", "all")
    )
    assert pooled["difference"] == pytest.approx((swa["difference"] + zul["difference"]) / 2)
    assert pooled["value"] == pytest.approx((swa["value"] + zul["value"]) / 2)
    assert pooled["n_problems"] == 45
    assert pooled["wins"] == swa["wins"] + zul["wins"]
    low, high = pooled["interval"]
    assert low < pooled["difference"] < high
    narrow, wide = (a["interval"][1] - a["interval"][0] for a in (swa, zul))
    # Two independent halves: the width is that of the root of the sum of their squares.
    assert high - low == pytest.approx(((narrow / 2) ** 2 + (wide / 2) ** 2) ** 0.5, rel=0.15)


def test_corrected_labels_are_compared_too_and_reference_languages_not_pooled(tmp_path: Path):
    def made(right: bool) -> list[dict[str, Any]]:
        lug = rows({"x": [right]}, suite="afrimgsm", language="lug", row=225, answer="9")
        lug[0]["budgets"]["8"] = {**lug[0]["budgets"]["8"], "said": "33"}
        others = [rows({code: [right]}, suite="afrimgsm", language=code) for code in ("swa", "eng")]
        return [*lug, *others[0], *others[1]]

    told = compare(pair(tmp_path, made(False), made(True), budgets=(4, 8)))
    upstream = cell(told, language="lug", labels="upstream", budget=8, metric="avg@k")
    corrected = cell(told, language="lug", labels="corrected", budget=8, metric="avg@k")
    assert (upstream["baseline"], upstream["value"]) == (0.0, 1.0)
    assert (corrected["baseline"], corrected["value"]) == (1.0, 1.0)  # both say 33
    pooled = cell(told, language="all", labels="corrected", budget=8, metric="avg@k")
    assert pooled["difference"] == 0.5 and pooled["n_problems"] == 2  # lug and swa, not eng
    assert not [
        r for r in told["comparisons"] if (r["language"], r["labels"]) == ("swa", "corrected")
    ]


@pytest.mark.parametrize(
    ("changed", "how", "told"),
    [
        (
            {"a": [True, True], "b": [True, False]},
            {},
            r"other problems than .*\(1 on one side only",
        ),
        ({name: [True] for name in ONE}, {}, "1 samples of a problem here, 2 there"),
        (TWO, {"temperature": 0.5}, r"have different protocols \(sampling"),
        (
            TWO,
            {"verifier": MathVerifier(after_think=True)},
            r"have different protocols \(after_think",
        ),
        (TWO, {"budgets": (4,)}, r"other budgets than the baseline's \(8 on one side only\)"),
    ],
)
def test_what_does_not_match_is_named(tmp_path: Path, changed: Any, how: Any, told: str):
    folders = pair(tmp_path, rows(ONE), rows(changed), **how)
    with pytest.raises(UserError, match=told):
        compare(folders)


def test_suites_and_languages_on_one_side_only_are_named(tmp_path: Path):
    folders = pair(tmp_path, [*rows(ONE), *rows({"z": [True, True]}, language="zul")], rows(TWO))
    with pytest.raises(UserError, match=r"other languages than the baseline's \(zul on one side"):
        compare(folders)
    evaluated(tmp_path / "tuned" / "more", rows(TWO, suite="more"), "tuned")
    with pytest.raises(UserError, match=r"other suites than the baseline's \(more on one side"):
        compare([tmp_path])
    told = compare([tmp_path], common=True)
    assert {(r["suite"], r["language"]) for r in told["comparisons"]} == {("suite", "swa")}


def test_in_common_are_the_same_problems_equally_often(tmp_path: Path):
    two = {"a": [True], "c": [False], "d": [True]}
    told = compare(pair(tmp_path, rows(ONE), rows(two), budgets=(4,)), common=True)
    average = cell(told, metric="avg@k")
    assert (average["n_problems"], average["budget"]) == (2, 4)
    assert (average["baseline"], average["value"]) == (1.0, 0.5)  # the first sample of a and c
    nothing = pair(tmp_path / "other", rows(ONE), rows({"e": [True]}))
    with pytest.raises(UserError, match="no problem in common"):
        compare(nothing, common=True)


def test_seeds_may_differ_and_one_model_twice_is_told_apart(tmp_path: Path):
    for seed in (0, 1):
        evaluated(tmp_path / str(seed) / "m" / "suite", rows(TWO if seed else ONE), seed=seed)
    told = compare([tmp_path / "0", tmp_path / "1"])
    assert told["baseline"].startswith("m (") and "0" in told["baseline"]
    assert cell(told, budget=4, metric="avg@k")["wins"] == 2


def test_folders_without_samples_are_refused(tmp_path: Path):
    with pytest.raises(UserError, match="no such folder"):
        compare([tmp_path / "nowhere"])
    (tmp_path / "samples.jsonl").write_text('{"method": "base"}\n')  # a quickstart's
    with pytest.raises(UserError, match=r"contains no samples\.jsonl next to a protocol\.json"):
        compare([tmp_path])
    folder = evaluated(tmp_path / "m" / "suite", rows(ONE))
    with pytest.raises(UserError, match="only m has samples"):
        compare([folder, folder])


def test_suites_that_share_problems_are_said_to(tmp_path: Path, capsys):
    for model in ("a", "b"):
        for suite in ("gsm8k", "mgsm"):
            made = rows({"p": [True]}, suite=suite, language="eng")
            evaluated(tmp_path / model / suite, made, model)
    compare([tmp_path])
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("contamination")]
    assert "gsm8k and mgsm share problems and are not independent evidence" in line
