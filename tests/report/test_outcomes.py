"""What a report says of whether training helped: numbers against those of the samples."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.evaluate.folders import evaluated, rows

from opsd.evaluate.results import results, write
from opsd.report import outcomes
from opsd.report.export import export
from opsd.report.page import write_report
from opsd.report.runs import load_runs

from .folders import run_folder

HELPED = {f"p{i}": [True, True] for i in range(12)}
BEFORE = {f"p{i}": [i % 4 == 0, False] for i in range(12)}


def with_evaluations(folder: Path) -> Path:
    """A run whose model is better in Swahili and as it was in Zulu."""
    run = run_folder(folder)
    start = json.loads((run / "env.json").read_text()).get("model", "miniature")
    (run / "env.json").write_text(json.dumps({"model": start}))
    for model, swahili in ((start, BEFORE), ("trained", HELPED)):
        made = [*rows(swahili, language="swa"), *rows(BEFORE, language="zul")]
        made = [row | {"model": model, "prompt": "?", "completion": "!"} for row in made]
        place = evaluated(run / "eval" / Path(model).name / "suite", made, model)
        write(place, 1.0, results(model, "suite", made, (4, 8), 2))
    return run


@pytest.fixture
def outcome(tmp_path: Path) -> outcomes.Outcome:
    (found,) = outcomes.outcomes(load_runs([with_evaluations(tmp_path / "mine")]).runs)
    return found


def test_the_outcome_is_said_in_words(outcome: outcomes.Outcome):
    first, second, third = outcomes.sentences(outcome)
    assert "trained on suite: 56.2% of attempts are right after training, 12.5% before" in first
    assert "+43.8 points, as a mean over 2 languages" in first and "p < 0.001" in first
    low, high = outcome.pooled["interval"]
    assert "over 24 problems within 8 tokens. Differences" in first
    assert f"below about {50 * (high - low):.2g} points cannot be detected" in first
    assert "Corrected for 2 languages: better in 1 (Swahili), worse in 0," in second
    assert "not distinguishable from chance in 1." in second
    # Here whatever is stated is right: all of the change is of form.
    assert "+43.8 points come from how often an answer is stated, +0.0 from how" in third


def test_form_and_reasoning_add_up_to_the_change(outcome: outcomes.Outcome):
    parts = outcomes.by_form_and_reasoning(outcome)
    assert parts is not None and sum(parts) == pytest.approx(outcome.pooled["difference"])


def test_the_table_has_a_line_per_language_and_one_of_all(outcome: outcomes.Outcome):
    table = outcomes.table(outcome)
    assert [row[0] for row in table.rows] == ["Swahili", "Zulu", "All languages"]
    swahili = dict(zip([c.name for c in table.columns], table.rows[0], strict=True))
    assert (swahili["Base"], swahili["Trained"]) == (0.125, 1.0)
    assert (swahili["Format, base"], swahili["Format, trained"]) == (0.125, 1.0)
    assert swahili["Won-lost-tied"] == "12-0-0" and swahili["p, adjusted"] < 0.01


def test_figures_are_of_budgets_tries_and_format(outcome: outcomes.Outcome):
    titles = [panel.title for panel in outcomes.panels(outcome)]
    assert titles == ["Test-time budget", "pass@k", "Format and accuracy, by language"]
    tries = outcomes.panels(outcome)[1]
    assert "trained: 56.2% to 62.5%" in tries.alt  # pass@1, pass@2


def test_a_run_without_a_base_to_compare_with_has_no_outcome(tmp_path: Path):
    run = with_evaluations(tmp_path / "mine")
    for file in (run / "eval" / "trained" / "suite").iterdir():
        file.unlink()
    assert outcomes.outcomes(load_runs([run]).runs) == []


def test_the_page_says_whether_it_helped(tmp_path: Path):
    page = write_report([with_evaluations(tmp_path / "mine")], tmp_path / "report.html")
    html = page.read_text()
    assert "Did training help?" in html and "not distinguishable from chance in 1" in html


def test_every_table_and_figure_is_a_file(tmp_path: Path):
    written = export([with_evaluations(tmp_path / "mine")], tmp_path / "files")
    by_ending: dict[str, list[Any]] = {}
    for path in written:
        by_ending.setdefault(path.suffix, []).append(path)
    assert by_ending.keys() == {".csv", ".md", ".tex", ".svg", ".png"}
    (first,) = (path for path in by_ending[".csv"] if "outcome" in path.name)
    head, swahili, *_ = csv.reader(first.read_text().splitlines())
    assert head[:4] == ["Language", "Problems", "Base", "Trained"]
    assert swahili[:4] == ["Swahili", "12", "0.125", "1.0"]
    (tex,) = (path for path in by_ending[".tex"] if "outcome" in path.name)
    assert r"Swahili & 12 & 12.5\% & 100.0\%" in tex.read_text()
    for path in by_ending[".png"]:
        with Image.open(path) as image:
            assert image.size[0] > 800
    assert all("var(--" not in path.read_text() for path in by_ending[".svg"])
    again = {path: path.read_bytes() for path in written}
    export([tmp_path / "mine"], tmp_path / "files")
    assert {path: path.read_bytes() for path in written} == again


def test_languages_that_are_there_for_reference_are_in_no_mean(tmp_path: Path):
    run = run_folder(tmp_path / "mine")
    (run / "env.json").write_text(json.dumps({"model": "miniature"}))
    for model, swahili in (("miniature", BEFORE), ("trained", HELPED)):
        made = [*rows(swahili, language="swa"), *rows(BEFORE, language="zul")]
        made += [row for code in ("eng", "fra") for row in rows(HELPED, language=code)]
        made = [row | {"model": model, "suite": "afrimgsm"} for row in made]
        place = evaluated(run / "eval" / model / "afrimgsm", made, model)
        write(place, 1.0, results(model, "afrimgsm", made, (4, 8), 2))
    (found,) = outcomes.outcomes(load_runs([run]).runs)
    first, _, third = outcomes.sentences(found)
    assert "56.2% of attempts are right after training, 12.5% before" in first
    assert "as a mean over 2 languages" in first and "+43.8 points" in third
    scaling, tries, _ = outcomes.panels(found)
    assert (
        "12.5% (miniature), 56.2% (trained) throughout" in scaling.alt
        and "trained: 56.2%" in tries.alt
    )
    assert dict(zip("LPBT", outcomes.table(found).rows[-1], strict=False))["T"] == 0.5625


def test_an_evaluation_that_cannot_be_compared_takes_no_other_with_it(tmp_path: Path):
    run = with_evaluations(tmp_path / "mine")
    made = [row | {"model": "checkpoint", "suite": "other"} for row in rows(BEFORE, language="yor")]
    evaluated(run / "eval" / "checkpoint" / "other", made, "checkpoint")
    assert [found.model for found in outcomes.outcomes(load_runs([run]).runs)] == ["trained"]
