"""Numbers in tables are the numbers in the files."""

import csv
import io
import json
from pathlib import Path

import pytest

from opsd.grade.intervals import estimate
from opsd.report import tables
from opsd.report.runs import load_runs

from .folders import quickstart_folder, run_folder, without_teacher


def test_a_comparison_is_means_over_seeds_and_gains_over_base(tmp_path: Path):
    (comparison,) = load_runs([quickstart_folder(tmp_path / "q")]).comparisons
    table = tables.comparison_table(comparison)
    names = [column.name for column in table.columns]
    assert names[3] == "avg@4" and names[7] == "pass@4"
    rows = {row[:2]: row[2:] for row in table.rows}
    seeds, average, interval, gain, spread, solved, formed, tokens = rows["Yoruba", "copsd"]
    assert seeds == 2
    assert average == pytest.approx(0.89) and gain == pytest.approx(0.89 - 0.301)
    by_seed = [[a + 0.05 * (-1) ** i for i in range(50)] for a in (0.88, 0.90)]
    assert interval == estimate([by_seed]).interval and spread == pytest.approx((0.88, 0.90))
    assert (solved, formed, tokens) == pytest.approx((0.94, 0.9, 24_000.5))
    base = rows["Swahili", "base"]
    assert base[0] == 1 and base[1] == 0.372 and base[3] is None and base[4] is None
    assert rows["All languages", "grpo"][3] == pytest.approx(0.47 - (0.372 + 0.301) / 2)


def test_several_seeds_have_no_interval_without_the_scores_of_single_problems(tmp_path: Path):
    path = quickstart_folder(tmp_path / "q")
    content = json.loads((path / "result.json").read_text())
    for row in content["results"]:
        del row["scores"]
    (path / "result.json").write_text(json.dumps(content))
    (comparison,) = load_runs([path]).comparisons
    rows = {row[:2]: row[4] for row in tables.comparison_table(comparison).rows}
    assert rows["Yoruba", "base"] == pytest.approx((0.261, 0.341))
    assert rows["Yoruba", "copsd"] is rows["All languages", "base"] is None


def test_the_mean_over_languages_is_of_all_problems_of_each(tmp_path: Path):
    (comparison,) = load_runs([quickstart_folder(tmp_path / "q")]).comparisons
    rows = {row[:2]: row[4] for row in tables.comparison_table(comparison).rows}
    widths = [high - low for low, high in (rows[name, "base"] for name in ("Swahili", "Yoruba"))]
    low, high = rows["All languages", "base"]
    strata = [s.scores for s in comparison.scores if s.method == "base"]
    assert (low, high) == estimate(strata).interval
    assert widths[0] == pytest.approx(0.08) and high - low < 0.03


def test_a_base_that_was_not_measured_gives_no_gain(tmp_path: Path):
    path = quickstart_folder(tmp_path / "q")
    text = (path / "result.json").read_text().replace('"base"', '"other"')
    (path / "result.json").write_text(text)
    table = tables.comparison_table(load_runs([path]).comparisons[0])
    assert all(row[5] is None for row in table.rows)


def test_csv_keeps_full_precision(tmp_path: Path):
    (comparison,) = load_runs([quickstart_folder(tmp_path / "q")]).comparisons
    rows = list(
        csv.DictReader(io.StringIO(tables.comma_separated(tables.comparison_table(comparison))))
    )
    assert rows[0]["Language"] == "Swahili" and float(rows[0]["avg@4"]) == 0.372
    assert float(rows[0]["95% interval, low"]) == 0.372 - 0.04
    assert rows[0]["Gain over base, points"] == ""


def test_markdown_is_what_people_read(tmp_path: Path):
    runs = load_runs([run_folder(tmp_path / "a|b")]).runs
    lines = tables.markdown(tables.runs_table(runs)).splitlines()
    assert lines[1].startswith("| --- |") and lines[1].endswith("| ---: |")
    assert lines[2].startswith(r"| a\|b | copsd | 7 | Yoruba | dev split, step 6 (avg@k) | 62.5% |")


def test_a_run_without_scores_has_a_line(tmp_path: Path):
    path = run_folder(tmp_path / "mine")
    lines = (path / "metrics.jsonl").read_text().splitlines()
    (path / "metrics.jsonl").write_text(lines[0] + "\n")
    (row,) = tables.runs_table(load_runs([path]).runs).rows
    assert row[4] == "not yet" and row[5] is None and row[-1] == 96


@pytest.mark.parametrize(
    ("value", "kind", "shown"),
    [
        (0.3725, "share", "37.2%"),
        (-0.05, "points", "\u22125.0"),
        (0.528, "points", "+52.8"),
        ((0.25, 0.5), "interval", "25.0\u201350.0%"),
        (24_000.4, "count", "24,000"),
        (0.0, "count", "0"),
        (0.344, "seconds", "0.34"),
        (None, "share", "\u2013"),
    ],
)
def test_cells(value: object, kind: tables.Kind, shown: str):
    assert tables.text(value, kind) == shown


def test_seconds_are_those_that_training_has_logged(tmp_path: Path):
    (run,) = load_runs([run_folder(tmp_path / "mine", steps=4)]).runs
    spans = {span.name: span.seconds for span in tables.time_spent(run)}
    phases = {"rollout": 2.0, "teacher": 0.8, "student": 1.2, "loss": 0.4, "unaccounted": 0.0}
    assert spans == pytest.approx(phases)


def test_provenance_is_said_once_where_runs_agree(tmp_path: Path):
    paths = [run_folder(tmp_path / "a"), run_folder(tmp_path / "b", "grpo", line=without_teacher)]
    shared, differing = tables.provenance(load_runs(paths).runs)
    assert shared["git commit"] == "0123abcd with uncommitted changes"
    assert shared["seed"] == "7" and shared["torch"] == "2.13.0"
    assert differing is not None
    assert [column.name for column in differing.columns] == ["Key", "a", "b"]
    assert differing.rows == (("method", "copsd", "grpo"),)
    assert tables.provenance(load_runs(paths[:1]).runs)[1] is None


def test_every_key_of_the_recipes_that_differs_is_listed(tmp_path: Path):
    one, other = run_folder(tmp_path / "a"), run_folder(tmp_path / "b", "grpo")
    recipe = other / "recipe.yaml"
    text = recipe.read_text().replace("learning_rate: 0.001", "learning_rate: 0.1, beta: 2")
    recipe.write_text(text.replace("{name: grpo}", "{name: grpo, source: {group: 8}}"))
    _, differing = tables.provenance(load_runs([one, other]).runs)
    assert differing is not None and differing.rows == (
        ("method", "copsd", "grpo"),
        ("train.learning_rate", "0.001", "0.1"),
        ("method.source.group", None, "8"),
        ("train.beta", None, "2"),
    )


def test_a_published_number_stands_beside_ours_of_the_same_kind(tmp_path: Path):
    path = run_folder(tmp_path / "mine")
    about = "{suite: afrimgsm, metric: pass@12, value: 15.5, language: yor, budget: 2048"
    about += ", where: 'a table'}"
    other = "{suite: aime24, metric: avg@12, value: 57.2, where: 'another'}"
    recipe = path / "recipe.yaml"
    recipe.write_text(f"{recipe.read_text()}published: [{about}, {other}]\n")
    rows = [
        {"model": model, "suite": "afrimgsm", "language": language, "budget": budget}
        | {"samples": 12, "avg@k": 0.1, "pass@k": solved, "interval": [0.0, 0.2]}
        | {"n_problems": 250}
        for model, language, budget, solved in (
            ("miniature", "yor", 2048, 0.9),
            ("mine", "yor", 2048, 0.2),
            ("mine", "swa", 2048, 0.4),
            ("mine", "yor", 1024, 0.1),
        )
    ]
    file = path / "eval" / "result.json"
    file.parent.mkdir()
    file.write_text(json.dumps({"results": rows}))
    run = load_runs([path]).runs[0]
    assert tables.published_table([run]).rows == (
        ("mine", "afrimgsm pass@12", "Yoruba", 2048, 0.155, 0.2, "a table"),
        ("mine", "aime24 avg@12", "mean", None, pytest.approx(0.572), None, "another"),
    )
    assert tables.published_table(load_runs([run_folder(tmp_path / "plain")]).runs) is None


def test_rows_that_were_left_out_are_told(tmp_path: Path):
    path = run_folder(tmp_path / "mine")
    dropped = [{"reason": "no answer", "count": 2, "first": "row 3"}]
    kept = {"rows": 12, "kept": {"swa": 4, "yor": 3}, "dev": 3, "dropped": dropped}
    (path / "data.json").write_text(json.dumps(kept))
    assert tables.rows_table(load_runs([path]).runs).rows == (("mine", 12, 7, 3, "2: no answer"),)
    assert tables.rows_table(load_runs([run_folder(tmp_path / "plain")]).runs) is None
