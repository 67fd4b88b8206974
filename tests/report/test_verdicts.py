"""The report's first answer: its numbers are those of compare, and of the problems' scores."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from opsd.evaluate.compare import compared
from opsd.report import outcomes
from opsd.report.page import page
from opsd.report.runs import load_runs
from opsd.report.verdicts import Gain, verdicts

from .folders import quickstart_folder, run_folder
from .test_outcomes import with_evaluations


def answers(folder: Path):
    evidence = load_runs([folder])
    return verdicts(evidence, outcomes.outcomes(evidence.runs))


def test_the_numbers_are_those_of_compare(tmp_path: Path):
    run = with_evaluations(tmp_path / "mine")
    rows = compared([run])["comparisons"]
    wanted = [row for row in rows if row["metric"] == "avg@k" and row["budget"] == 8]
    (answer,) = answers(run)
    assert answer.word == "Yes"
    assert sorted(gain.effect for gain in answer.gains) == sorted(
        (row["difference"], *row["interval"]) for row in wanted
    )
    (pooled,) = (row for row in wanted if row["language"] == "all")
    text = " ".join(re.sub("<[^>]+>", " ", page(load_runs([run]))).split())
    assert f"{pooled['value']:.1%} of attempts are right after training" in text
    assert f"{100 * pooled['difference']:+.1f} points" in text


def test_seeds_and_methods_of_a_quickstart(tmp_path: Path):
    grpo, copsd, shuffled = answers(quickstart_folder(tmp_path / "q"))
    assert [a.about for a in (grpo, copsd, shuffled)] == ["grpo", "copsd", "copsd_shuffled"]
    # The mean over seeds and languages, by hand: 0.46 and 0.48 against 0.372 and 0.301.
    assert grpo.gains[-1].value == pytest.approx(0.47 - (0.372 + 0.301) / 2)
    assert copsd.word == "Yes" and "2 training seeds" in dict(copsd.facts)["How surely"]
    assert dict(copsd.facts)["Against grpo"].startswith("+42.0 (")  # 0.88 less 0.46
    assert not any(name.startswith("Against") for name, _ in grpo.facts)
    assert "96" not in dict(shuffled.facts).get("At what cost", "")


def test_a_run_that_nobody_has_measured_is_not_judged(tmp_path: Path):
    (answer,) = answers(run_folder(tmp_path / "mine"))
    assert answer.word == "Cannot tell" and not answer.gains
    told = "25.0% at the first measurement, 62.5% at its best, 62.5% at the last"
    assert told in answer.facts[0][1]
    # 6 steps of 1.1 s on one thread.
    assert "0.1 core-minutes (a processor)" in dict(answer.facts)["At what cost"]


@pytest.mark.parametrize(
    ("interval", "p", "word"),
    [
        ((0.01, 0.2), 0.01, "Yes"),
        ((-0.2, -0.01), 0.01, "No"),
        ((-0.01, 0.2), 0.01, "Cannot tell"),
        ((0.01, 0.2), 0.2, "Cannot tell"),
        ((0.01, 0.2), None, "Yes"),
    ],
)
def test_an_answer_needs_interval_and_test(interval, p, word):
    assert Gain("Zulu", sum(interval) / 2, interval, p).word == word
