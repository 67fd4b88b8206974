"""Run folders, whole and in pieces."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from opsd.report.runs import load_runs
from opsd.training.metrics import Metrics
from opsd.types import Finish, Group, Problem, Rollout, UserError, Verdict

from .folders import dev_line, jsonl, quickstart_folder, run_folder, train_line


def test_a_run_is_what_its_files_say(tmp_path: Path):
    (run,) = load_runs([run_folder(tmp_path / "mine", planned=10)]).runs
    assert (run.label, run.method, run.language, run.seed) == ("mine", "copsd", "yor", 7)
    assert (run.steps, run.planned_steps, run.generated_tokens) == (6, 10, 576)
    assert len(run.train) == 6 and len(run.dev) == 2
    (score,) = run.scores
    assert (score.average, score.solved, score.interval) == (0.625, 0.75, None)
    assert score.generated_tokens == 576


@pytest.mark.parametrize(
    ("planned", "tokens", "unfinished"),
    [(6, None, False), (10, None, True), (10, 576, False), (10, 600, True)],
)
def test_a_run_ends_with_its_steps_or_its_tokens(
    tmp_path: Path, planned: int, tokens: int | None, unfinished: bool
):
    path = run_folder(tmp_path / "mine", planned=planned, tokens=tokens)
    assert load_runs([path]).runs[0].unfinished == unfinished


def suite_result(**changes: object) -> dict[str, object]:
    """A row of an evaluation's result.json."""
    return {
        "model": "m",
        "suite": "afrimgsm",
        "language": "yor",
        "labels": "upstream",
        "budget": 2048,
        "n_problems": 100,
        "samples": 12,
        "avg@k": 0.61,
        "pass@k": 0.8,
        "format_rate": 0.95,
        "accuracy_given_format": 0.7,
        "cut_off": 0.1,
        "interval": [0.55, 0.7],
    } | changes


def evaluated(run: Path, model: str, *rows: dict[str, object]) -> None:
    file = run / "eval" / model / "afrimgsm" / "result.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"seconds": 3, "results": rows}))


def test_scores_of_suites_come_first(tmp_path: Path):
    path = run_folder(tmp_path / "mine")
    evaluated(path, "m", suite_result())
    score = load_runs([path]).runs[0].scores[0]
    assert score.where == "afrimgsm, 2,048 tokens"
    assert (score.metric, score.passing) == ("avg@12", "pass@12")
    assert (score.average, score.interval) == (0.61, (0.55, 0.7))


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        ("upstream", "afrimgsm, 2,048 tokens"),
        ("corrected", "afrimgsm, corrected labels, 2,048 tokens"),
        ("as given", "afrimgsm, as given labels, 2,048 tokens"),
        (None, "afrimgsm, 2,048 tokens"),
    ],
)
def test_labels_that_are_not_upstreams_are_named(tmp_path: Path, labels: object, told: str):
    path = run_folder(tmp_path / "mine")
    evaluated(path, "m", suite_result(labels=labels))
    assert load_runs([path]).runs[0].scores[0].where == told


def test_of_several_models_in_one_run_each_score_says_whose_it_is(tmp_path: Path):
    path = run_folder(tmp_path / "mine")
    for model in ("base", "tuned"):
        evaluated(path, model, suite_result(model=model))
    told = [score.where for score in load_runs([path]).runs[0].scores]
    assert told[:2] == ["afrimgsm, 2,048 tokens, base", "afrimgsm, 2,048 tokens, tuned"]


def test_the_model_that_a_run_started_from_is_its_base(tmp_path: Path):
    path = run_folder(tmp_path / "mine")
    for model in ("miniature", "mine/model"):
        evaluated(path, model.replace("/", "_"), suite_result(model=model))
    own, base = load_runs([path]).runs[0].scores[:2]
    assert (base.method, base.generated_tokens) == ("base", 0)
    assert own.method == load_runs([path]).runs[0].method
    assert base.where == own.where == "afrimgsm, 2,048 tokens"


def test_the_languages_are_those_that_the_run_counted(tmp_path: Path):
    path = run_folder(tmp_path / "mine")
    (path / "data.json").write_text('{"rows": 3, "kept": {"som": 2, "swa": 1}, "dropped": []}')
    assert load_runs([path]).runs[0].language == "som, swa"


def test_a_quickstart_is_its_runs_and_what_they_were_compared_by(tmp_path: Path):
    evidence = load_runs([quickstart_folder(tmp_path / "quickstart")])
    assert len(evidence.runs) == 8
    assert {(r.language, r.method, r.seed) for r in evidence.runs} >= {("swa", "grpo", 1)}
    (comparison,) = evidence.comparisons
    assert len(comparison.scores) == 11 and len(comparison.samples) == 6


def test_a_quickstart_that_has_not_come_to_its_end(tmp_path: Path):
    path = quickstart_folder(tmp_path / "quickstart")
    (path / "result.json").unlink()
    jsonl(path / "zul-grpo-seed0" / "metrics.jsonl", [])
    evidence = load_runs([path])
    assert len(evidence.runs) == 8 and not evidence.comparisons


def test_folders_of_one_name_are_told_apart(tmp_path: Path):
    paths = [run_folder(tmp_path / folder / "run") for folder in ("a", "b")]
    assert [run.label for run in load_runs([*paths, paths[0]]).runs] == ["a/run", "b/run"]


def test_a_run_killed_in_the_middle_of_a_line(tmp_path: Path):
    lines = [train_line(1), train_line(2)]
    jsonl(tmp_path / "metrics.jsonl", lines, end='{"step": 3, "lo')
    assert load_runs([tmp_path]).runs[0].steps == 2


def test_numbers_that_are_none(tmp_path: Path):
    jsonl(tmp_path / "metrics.jsonl", [train_line(1, generated_tokens=float("nan"))])
    run = load_runs([tmp_path]).runs[0]
    assert run.generated_tokens is None and run.scores == ()


def test_dev_lines_alone_are_a_run(tmp_path: Path):
    jsonl(tmp_path / "metrics.jsonl", [dev_line(0, 0.25)])
    assert load_runs([tmp_path]).runs[0].steps == 0


def test_errors_say_what_is_missing(tmp_path: Path):
    with pytest.raises(UserError, match="no such folder"):
        load_runs([tmp_path / "nowhere"])
    with pytest.raises(UserError, match=r"contains a metrics\.jsonl"):
        load_runs([tmp_path])
    with pytest.raises(UserError, match="name at least one"):
        load_runs([])
    jsonl(tmp_path / "metrics.jsonl", [])
    with pytest.raises(UserError, match=r"metrics\.jsonl is empty"):
        load_runs([tmp_path])


@pytest.mark.parametrize(
    ("name", "text"), [("recipe.yaml", "a: [1"), ("env.json", "{"), ("metrics.jsonl", "{\n")]
)
def test_a_damaged_file_is_named(tmp_path: Path, name: str, text: str):
    path = run_folder(tmp_path / "mine")
    (path / name).write_text(text)
    with pytest.raises(UserError, match=name) as error:
        load_runs([path])
    assert "\n" not in str(error.value)


def test_a_recipe_that_is_not_utf_8_is_named(tmp_path: Path):
    path = run_folder(tmp_path / "mine")
    (path / "recipe.yaml").write_bytes(b"method: \xff\n")
    with pytest.raises(UserError, match=r"recipe\.yaml: not UTF-8 text"):
        load_runs([path])


@pytest.mark.parametrize("interval", [[1], 5, "ab", [None, 1]])
def test_what_is_no_interval_is_named(tmp_path: Path, interval: object):
    path = run_folder(tmp_path / "mine")
    evaluated(path, "m", suite_result(interval=interval))
    with pytest.raises(UserError, match=r"result\.json: results\.0\.interval"):
        load_runs([path])


@pytest.mark.parametrize("kept", [[1], 5, "swa"])
def test_what_counts_no_languages_is_passed_over(tmp_path: Path, kept: object):
    path = run_folder(tmp_path / "mine")
    (path / "data.json").write_text(json.dumps({"kept": kept}))
    assert load_runs([path]).runs[0].language == "yor"


def test_names_of_metrics_are_the_ones_that_training_writes():
    """The report reads these names from metrics.jsonl; the meter is who chooses them."""
    metrics = Metrics()
    verdict = Verdict(1.0, True, True)
    rollout = Rollout((1,), (2, 3), "x", Finish.STOP, verdict=verdict)
    metrics.rollouts([Group(Problem("p"), (rollout,))])
    with metrics.timed("rollout"):
        pass
    written = set(metrics.merged(lambda parts: parts))
    assert written <= set(train_line(1)) and "completions/clipped_ratio" in written


def test_reports_start_without_torch():
    code = "import sys, opsd.report.page; print({'torch', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
