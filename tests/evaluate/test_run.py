"""Evaluations: rows that come once, whatever interrupts them, and numbers that follow from them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.arrange import engine_for, problems, sampler_for
from tests.conftest import tiny_model

from opsd.evaluate.dev import dev_scores, summarise
from opsd.evaluate.run import Protocol, _row, budgets_protocol, evaluate
from opsd.grade.verifier import MathVerifier
from opsd.rollout.engine import Sampling
from opsd.run import read_jsonl
from opsd.teacher.context import StudentPrompt
from opsd.types import Finish, Problem, UserError

SWA, ZUL = problems(3), problems(2, "zul")


def protocol(**changes: Any) -> Protocol:
    made = budgets_protocol(StudentPrompt(), Sampling(temperature=1.0), 3, [8, 4, 8])
    return replace(made, **changes)


def results(outcome: dict[str, Any]) -> list[dict[str, Any]]:
    return outcome["results"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    """One evaluation that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    evaluate(str(tiny_folder), [*SWA, *ZUL], "suite", protocol(), folder)
    return folder


def lines(folder: Path) -> list[str]:
    return (folder / "samples.jsonl").read_text("utf-8").splitlines(keepends=True)


def test_a_protocol_samples_once_at_its_largest_budget():
    made = protocol()
    assert (made.budgets, made.sampling.max_tokens) == ((4, 8), 8)


def test_there_is_one_row_per_problem_and_sample(whole: Path):
    rows = list(read_jsonl(whole / "samples.jsonl"))
    assert sorted((row["problem"], row["sample"]) for row in rows) == sorted(
        (p.id, i) for p in [*SWA, *ZUL] for i in range(3)
    )
    texts = {p.id: p for p in [*SWA, *ZUL]}
    for row in rows:
        problem = texts[row["problem"]]
        assert (row["prompt"], row["answer"], row["language"]) == (
            problem.text,
            problem.answer,
            problem.language,
        )
        assert row["suite"] == "suite" and 1 <= row["tokens"] <= 8
    assert len({row["completion"] for row in rows}) == len(rows)


def test_there_is_one_result_per_language_and_budget(whole: Path):
    told = json.loads((whole / "result.json").read_text())
    keys = [(r["language"], r["budget"], r["n_problems"], r["samples"]) for r in results(told)]
    assert keys == [("swa", 4, 3, 3), ("zul", 4, 2, 3), ("swa", 8, 3, 3), ("zul", 8, 2, 3)]
    assert told["seconds"] > 0


def test_an_evaluation_goes_on_after_half_of_its_rows_are_lost(
    whole: Path, tmp_path: Path, tiny_folder: Path
):
    for name in ("samples.jsonl", "protocol.json"):
        (tmp_path / name).write_bytes((whole / name).read_bytes())
    kept = lines(whole)[::2]
    (tmp_path / "samples.jsonl").write_text("".join(kept) + lines(whole)[1][:40], "utf-8")
    outcome = evaluate(str(tiny_folder), [*SWA, *ZUL], "suite", protocol(), tmp_path)
    assert results(outcome) == results(json.loads((whole / "result.json").read_text()))
    assert sorted(lines(tmp_path)) == sorted(lines(whole))
    assert lines(tmp_path)[: len(kept)] == kept


def test_a_complete_evaluation_is_read_and_not_repeated(whole: Path, tmp_path: Path):
    """The model is not even loaded: the folder that it names is gone."""
    protocol_json = json.loads((whole / "protocol.json").read_text())
    protocol_json |= {"model": "gone", "weights": []}
    about = json.dumps(protocol_json, indent=1, sort_keys=True)
    (tmp_path / "protocol.json").write_text(about)
    (tmp_path / "samples.jsonl").write_bytes((whole / "samples.jsonl").read_bytes())
    outcome = evaluate("gone", [*SWA, *ZUL], "suite", protocol(), tmp_path)
    told = results(json.loads((whole / "result.json").read_text()))
    assert results(outcome) == [{**row, "model": "gone"} for row in told]


def test_smaller_budgets_are_prefixes_of_the_largest(
    whole: Path, tmp_path: Path, tiny_folder: Path
):
    short = replace(protocol(), budgets=(4,), sampling=Sampling(temperature=1.0, max_tokens=4))
    evaluate(str(tiny_folder), [*SWA, *ZUL], "suite", short, tmp_path)
    long = {(row["problem"], row["sample"]): row for row in read_jsonl(whole / "samples.jsonl")}
    rows = list(read_jsonl(tmp_path / "samples.jsonl"))
    for row in rows:
        same = long[row["problem"], row["sample"]]
        assert same["completion"].startswith(row["completion"])
        assert same["budgets"]["4"] == row["budgets"]["4"]
        assert same["budgets"]["4"]["cut_off"] is (same["tokens"] > 4 or row["finish"] == "length")
    assert any(
        len(row["completion"]) < len(long[row["problem"], row["sample"]]["completion"])
        for row in rows
    )


def test_a_sample_is_judged_by_what_it_has_said_within_each_budget(tokenizer):
    problem = Problem("2 + 2?", answer="4")
    said = tokenizer("so \\boxed{4} or \\boxed{5}")["input_ids"]
    early = len(tokenizer("so \\boxed{4} or")["input_ids"])
    budgets = (2, early, len(said))
    row = _row(
        *("m", "s", problem, 0, said, Finish.STOP, tokenizer, MathVerifier()),
        protocol(budgets=budgets),
    )
    judged = [tuple(row["budgets"][str(b)].values()) for b in budgets]  # right, well-formed, cut
    assert judged == [(False, False, True), (True, True, True), (False, True, False)]


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"samples": 2},
        {"sampling": Sampling(temperature=0.5, max_tokens=8)},
        {"budgets": (8,)},
        {"prompt": StudentPrompt(template_options={"enable_thinking": True})},
        {"after_think": True},
    ],
)
def test_a_folder_holds_samples_of_one_protocol(whole: Path, tiny_folder: Path, change: Any):
    before = lines(whole)
    with pytest.raises(UserError, match="drawn in another way"):
        evaluate(str(tiny_folder), SWA, "suite", replace(protocol(), **change), whole)
    assert lines(whole) == before


def test_a_folder_holds_samples_of_one_model(whole: Path):
    with pytest.raises(UserError, match="samples of other weights"):
        evaluate("miniature", SWA, "suite", protocol(), whole)


def written(folder: Path, right: dict[str, list[bool]], budgets: tuple[int, ...] = (4, 8)) -> None:
    """samples.jsonl by hand: correctness per problem and sample; well-formed where right."""
    rows = [
        {
            "problem": name,
            "sample": i,
            "budgets": {
                str(b): {"correct": yes, "format_ok": yes, "cut_off": not yes} for b in budgets
            },
        }
        for name, answers in right.items()
        for i, yes in enumerate(answers)
    ]
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize("right", [True, False])
def test_all_right_is_one_and_all_wrong_is_nought(tmp_path: Path, right: bool):
    written(tmp_path, {p.id: [right] * 3 for p in SWA})
    for row in results(evaluate("any", SWA, "suite", protocol(), tmp_path)):
        share = float(right)
        assert (row["avg@k"], row["pass@k"], row["format_rate"]) == (share, share, share)
        assert row["interval"] == [share, share]
        assert row["cut_off"] == 1 - share
        assert row["accuracy_given_format"] == (1.0 if right else None)


def test_averages_are_over_problems_and_passes_over_samples(tmp_path: Path):
    a, b, c = SWA
    written(
        tmp_path,
        {a.id: [True, False, False], b.id: [False, False, False], c.id: [True, True, True]},
    )
    row, _ = results(evaluate("any", SWA, "suite", protocol(), tmp_path))
    assert row["avg@k"] == pytest.approx(4 / 9)
    assert row["pass@k"] == pytest.approx(2 / 3)
    assert row["accuracy_given_format"] == 1.0
    low, high = row["interval"]
    assert 0 <= low < row["avg@k"] < high <= 1


def test_a_problem_that_is_given_twice_counts_once(tmp_path: Path, capsys):
    a, b, _ = SWA
    written(tmp_path, {a.id: [True] * 3, b.id: [False] * 3})
    row, _ = results(evaluate("any", [a, b, a], "suite", protocol(), tmp_path))
    assert (row["n_problems"], row["avg@k"], row["pass@k"]) == (2, 0.5, 0.5)
    assert "1 of 3 problems left out" in capsys.readouterr().err


def test_problems_without_an_answer_are_left_out_and_counted(tmp_path: Path, capsys):
    written(tmp_path, {SWA[0].id: [True] * 3})
    bare = Problem("no answer", language="swa")
    row, _ = results(evaluate("any", [SWA[0], bare], "suite", protocol(), tmp_path))
    assert row["n_problems"] == 1
    assert "1 of 2 problems left out" in capsys.readouterr().err
    with pytest.raises(UserError, match="no problem has an answer"):
        evaluate("any", [bare], "suite", protocol(), tmp_path)


def test_a_prompt_that_leaves_no_room_for_the_budget_is_an_error(tmp_path: Path, tiny_folder: Path):
    long = Problem("yai " * 8185, answer="1", language="swa")
    with pytest.raises(UserError, match="more than the model's 8192; lower --budget"):
        evaluate(str(tiny_folder), [long], "suite", protocol(), tmp_path)


def test_dev_scores_repeat_and_leave_the_runs_counters_alone(tokenizer):
    engine = engine_for(tiny_model(len(tokenizer)).eval(), tokenizer)
    sampler = sampler_for(engine, tokenizer)
    scores = dev_scores(sampler, SWA, 4)
    assert dev_scores(sampler, SWA, 4) == scores
    assert sampler.generated_tokens == 0
    assert [score[:3] for score in scores] == [(4, 2, 4)] * 3  # every second one is right
    told = summarise(scores)
    assert (told["avg@k"], told["pass@k"], told["format_rate"]) == (0.5, 1.0, 1.0)
    assert told["mean_length"] == sum(score[3] for score in scores) / 12


def test_a_dev_split_of_which_nothing_fits_is_an_error():
    with pytest.raises(UserError, match="no dev problem fits"):
        summarise([])
