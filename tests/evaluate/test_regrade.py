"""Stored samples judged again: by their text, and nothing else of them changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.evaluate.folders import evaluated, sample

from opsd.evaluate.regrade import regrade
from opsd.evaluate.results import results, write
from opsd.evaluate.samples import Sample, protocol, sample_rows, sampled_rows
from opsd.grade.verifier import MathVerifier
from opsd.prompts.contexts import StudentPrompt
from opsd.rollout.engine import Completion, Sampling
from opsd.types import Finish, Problem, UserError


def stored(folder: Path, *made: dict[str, Any]) -> Path:
    """An evaluation with results, as its stored verdicts have them."""
    place = evaluated(folder / "m" / "suite", made)
    write(place, 1.0, results("m", "suite", sampled_rows(place), (4, 8), 1))
    return place


def test_verdicts_of_an_older_grader_are_mended_from_the_text(tmp_path: Path, capsys):
    # The stored verdict says wrong; the text says 4, which is the answer.
    wrong = sample("a", 0, False, completion=r"so \boxed{4}", prompt="2 + 2")
    wrong["budgets"]["4"] = wrong["budgets"]["4"] | {"chars": 3}  # by then only "so " was written
    fine = sample("b", 0, True, completion=r"so \boxed{4}", prompt="2 + 2")
    place = stored(tmp_path, wrong, fine)
    told = regrade([tmp_path])
    assert told["changed"] == 1
    one, two = sampled_rows(place)
    assert [one["budgets"][b]["correct"] for b in ("4", "8")] == [False, True]
    assert one["budgets"]["8"]["said"] == "4" and one["budgets"]["8"]["format_ok"]
    # A row that does not say how far its text is within 4 tokens keeps what it said by then.
    assert [two["budgets"][b] for b in ("4", "8")] == [fine["budgets"]["4"], fine["budgets"]["8"]]
    unchanged = {k: v for k, v in wrong.items() if k != "budgets"}
    assert {k: v for k, v in one.items() if k != "budgets"} == unchanged
    scores = {row["budget"]: row["avg@k"] for row in told["results"]}
    assert scores == {4: 0.5, 8: 1.0}
    kept = json.loads((place / "result.json").read_text())["results"]
    assert {row["budget"]: row["avg@k"] for row in kept} == scores
    errors = capsys.readouterr().err
    assert "1 of 4 verdicts changed" in errors
    assert "problem a, sample 0 at 8 tokens: '4' against '4' was wrong, is right" in errors
    assert regrade([tmp_path])["changed"] == 0


def test_a_label_that_was_mended_counts(tmp_path: Path):
    row = sample("a", 0, True, completion=r"\boxed{4}", answer="5")
    assert regrade([stored(tmp_path, row)])["changed"] == 2


def test_options_are_stored_and_read_again(tmp_path: Path, tokenizer):
    problem = Problem("?", answer="B", language="eng", metadata={"choices": ("red", "blue")})
    ids = tuple(tokenizer(r"It is \boxed{blue}.", add_special_tokens=False)["input_ids"])
    about = {"model": "m", "suite": "suite", "problem": "a", "sample": 0}
    how = protocol(StudentPrompt(), Sampling(), (4, len(ids)))
    made = Sample(about, problem, Completion(ids, None, Finish.STOP))
    (row,) = sample_rows([made], tokenizer, how)
    assert row["choices"] == ["red", "blue"] and row["budgets"][str(len(ids))]["correct"]
    place = evaluated(
        tmp_path / "m",
        [{k: v for k, v in row.items() if k != "check"} | {"row": 0}],
        budgets=(4, len(ids)),
    )
    assert regrade([place])["changed"] == 0


def test_the_text_within_a_budget_is_the_one_that_was_judged(tokenizer):
    problem = Problem("?", answer="4", language="swa")
    text = r"Kwanza \boxed{4}, mọ́kàndínlógún, kisha \boxed{5}"
    ids = tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
    how = protocol(StudentPrompt(), Sampling(), range(1, len(ids) + 1))
    about = {"model": "m", "suite": "suite", "problem": "a", "sample": 0}
    made = Sample(about, problem, Completion(ids, None, Finish.STOP))
    (row,) = sample_rows([made], tokenizer, how)
    seen = set()
    for budget, verdict in row["budgets"].items():
        within = row["completion"][: verdict.get("chars")]
        by_ids = tokenizer.decode(ids[: int(budget)])
        assert MathVerifier()(problem, by_ids).correct is verdict["correct"]
        assert MathVerifier()(problem, within).correct is verdict["correct"]
        seen.add(verdict["correct"])
    assert seen == {True, False}


def test_samples_without_a_text_and_folders_without_samples_are_refused(tmp_path: Path):
    with pytest.raises(UserError, match=r"contains no samples\.jsonl"):
        regrade([tmp_path])
    place = stored(tmp_path, sample("a", 0, True))
    before = (place / "samples.jsonl").read_bytes()
    with pytest.raises(UserError, match="has no text to judge; evaluate again"):
        regrade([place])
    assert (place / "samples.jsonl").read_bytes() == before
