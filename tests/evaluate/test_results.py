"""Scores follow from samples: by hand, under both sets of labels."""

from __future__ import annotations

from pathlib import Path

import pytest

from opsd.evaluate.results import results, split_weights, write
from opsd.evaluate.show import means, show_published, show_results
from opsd.recipe.content import Published
from opsd.suites.loading import SUITES
from opsd.types import UserError

from .folders import rows, sample


def scored(made, samples=3, suite="suite"):
    return results("m", suite, made, (4, 8), samples)


@pytest.mark.parametrize("right", [True, False])
def test_all_right_is_one_and_all_wrong_is_nought(right: bool):
    for row in scored(rows({"a": [right] * 3, "b": [right] * 3})):
        share = float(right)
        assert (row["avg@k"], row["pass@k"], row["format_rate"]) == (share, share, share)
        low, high = row["interval"]
        assert low <= share <= high and high - low > 0.5  # two problems say next to nothing
        assert row["cut_off"] == 1 - share
        assert row["accuracy_given_format"] == (1.0 if right else None)


def test_averages_are_over_problems_and_passes_over_samples():
    made = {"a": [True, False, False], "b": [False] * 3, "c": [True] * 3}
    row, _ = scored(rows(made))
    assert row["avg@k"] == pytest.approx(4 / 9)
    assert row["pass@k"] == pytest.approx(2 / 3)
    assert row["accuracy_given_format"] == 1.0
    low, high = row["interval"]
    assert 0 <= low < row["avg@k"] < high <= 1


def test_a_result_says_exactly_this():
    assert list(scored(rows({"a": [True] * 3}))[0]) == [
        *("model", "suite", "language", "labels", "budget", "n_problems", "samples", "avg@k"),
        *("pass@k", "maj@k", "pass_curve", "mean_length", "repetition", "language_fidelity"),
        *("language_unknown", "format_rate", "accuracy_given_format", "cut_off", "interval"),
    ]


@pytest.mark.parametrize(("language", "share"), [("deu", 1.0), ("eng", 0.0)])
def test_votes_are_counted_as_numbers_are_written_in_the_language(language: str, share: float):
    # In German 1.234 is 1234; in English it is another answer.
    votes = [("2.50", False), ("2,5", False), ("1.234", True), ("1234", True), ("1.234 kg", True)]
    made = [
        sample("a", i, right, language=language, answer="1234")
        for i, (_, right) in enumerate(votes)
    ]
    for row, (text, _) in zip(made, votes, strict=True):
        row["budgets"] = {b: j | {"said": text} for b, j in row["budgets"].items()}
    assert results("m", "suite", made, (4,), 5)[0]["maj@k"] == share


def test_what_samples_are_like_beside_being_right():
    small, large = scored(rows({"a": [True, False, False], "b": [True, True, True]}))
    assert (small["mean_length"], large["mean_length"]) == (4, 6)  # never beyond the budget
    assert small["repetition"] == 0.25 and small["language_fidelity"] == 0.75
    assert small["language_unknown"] == pytest.approx(1 / 3)
    assert small["maj@k"] == 1.0  # the two that say nothing have no vote
    assert small["pass_curve"] == pytest.approx([(1 / 3 + 1) / 2, (2 / 3 + 1) / 2, 1.0])
    (none,) = results("m", "suite", rows({"a": [False]}), (4,), 1)
    assert none["repetition"] is None and none["language_fidelity"] is None
    assert none["language_unknown"] == 1.0 and none["maj@k"] == 0.0


def test_samples_of_an_earlier_version_have_what_they_had():
    made = rows({"a": [True] * 3})
    for row in made:
        row["budgets"] = {
            budget: {k: v for k, v in judged.items() if k not in ("repetition", "fidelity")}
            for budget, judged in row["budgets"].items()
        }
    row, _ = scored(made)
    assert row["avg@k"] == 1.0 and row["repetition"] is None and row["language_unknown"] == 1.0


def lug(row: int, answer: str, said: str | None) -> dict:
    """A sample of a Luganda row: judged right by its upstream answer."""
    judged = {"correct": said == answer, "format_ok": said is not None, "cut_off": False}
    return sample(
        *(str(row), 0, False),
        **{"suite": "afrimgsm", "language": "lug", "row": row, "answer": answer},
        budgets={"4": {**judged, "said": said}},
    )


def labelled(made) -> dict[str, dict]:
    return {row["labels"]: row for row in results("m", "afrimgsm", made, (4,), 1)}


def test_wrong_labels_are_scored_under_both_sets_from_the_same_samples():
    """A perfect solver of the questions: wrong by the shifted labels, right by the corrected."""
    perfect = [lug(224, "5", "5"), lug(225, "9", "33"), lug(229, "21", "276000")]
    told = labelled(perfect)
    assert told["upstream"]["avg@k"] == pytest.approx(1 / 3)
    assert told["corrected"]["avg@k"] == 1.0
    assert told["upstream"]["n_problems"] == told["corrected"]["n_problems"] == 3
    parrot = labelled([lug(224, "5", "5"), lug(225, "9", "9"), lug(229, "21", None)])
    assert (parrot["upstream"]["avg@k"], parrot["corrected"]["avg@k"]) == (
        pytest.approx(2 / 3),
        pytest.approx(1 / 3),
    )


def test_a_row_without_a_right_label_is_left_out_of_the_corrected_ones():
    made = [lug(1, "3", "3"), {**lug(2, "70000", None), "language": "ibo"}]
    made[0]["language"] = "ibo"
    told = labelled(made)
    assert (told["upstream"]["n_problems"], told["upstream"]["avg@k"]) == (2, 0.5)
    assert (told["corrected"]["n_problems"], told["corrected"]["avg@k"]) == (1, 1.0)


def test_labels_that_were_mended_upstream_are_scored_once():
    assert set(labelled([lug(225, "33", "33")])) == {"upstream"}
    other = [{**lug(225, "9", "9"), "suite": "mine"}]
    assert set(labelled(other)) == {"upstream"}


def result(language: str, average: float, labels: str = "upstream", **changes) -> dict:
    row = {"model": "m", "suite": "afrimgsm", "language": language, "labels": labels}
    numbers = {"avg@k": average, "pass@k": average, "format_rate": 0.5, "cut_off": 0.0}
    rest = {"accuracy_given_format": None if average == 0 else average, "interval": [0.0, 1.0]}
    return {**row, "budget": 4096, "n_problems": 250, "samples": 12, **numbers, **rest, **changes}


def test_means_count_languages_alike_and_leave_those_aside_out():
    made = [
        result("lug", 0.2, n_problems=10),
        result("lug", 0.4, "corrected", n_problems=10),
        result("swa", 0.0),
        result("eng", 1.0),
    ]
    upstream, corrected = means(made, ["eng", "fra"])
    assert (upstream["labels"], upstream["avg@k"]) == ("upstream", pytest.approx(0.1))
    assert (corrected["labels"], corrected["avg@k"]) == ("corrected", pytest.approx(0.2))
    assert upstream["language"] == corrected["language"] == "mean"
    assert upstream["accuracy_given_format"] == pytest.approx(0.2)  # of those that have one
    assert means(made[2:3]) == [] and means(made[2:], ["eng"]) == []


def test_a_mean_over_languages_is_surer_than_one_of_them():
    made = [result(code, 0.5, interval=[0.44, 0.56]) for code in ("swa", "zul", "yor", "hau")]
    (mean,) = means(made)
    assert mean["interval"] == pytest.approx([0.47, 0.53], abs=1e-3)


@pytest.mark.parametrize(("problems", "told"), [(5, "5 problems are too few"), (6, "")])
def test_too_few_problems_are_said_to_be(problems: int, told: str, capsys):
    show_results(scored(rows({f"p{i}": [True] for i in range(problems)}), samples=1), ())
    said = capsys.readouterr().err
    assert told in said and ("too few" in said) == bool(told)


def test_tables_show_what_there_is(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    made = [result("lug", 0.25), result("lug", 0.5, "corrected"), result("swa", 0.125)]
    show_results(made, ())
    told = capsys.readouterr().out
    assert "corrected" in told and "mean" in told and "0.312" in told
    show_results(made[2:], ())
    assert "corrected" not in capsys.readouterr().out


@pytest.mark.parametrize("text", ["{", "[]", '{"results": 5}', '{"results": [1]}', "\xff"])
def test_a_broken_file_of_results_is_named(tmp_path: Path, text: str):
    (tmp_path / "result.json").write_bytes(text.encode("latin-1"))
    for use in (split_weights, lambda folder: write(folder, 1.0, [result("swa", 0.5)])):
        with pytest.raises(UserError, match=r"result\.json: .*; delete it, and evaluate") as e:
            use(tmp_path)
        assert "\n" not in str(e.value)


def test_a_published_number_stands_beside_ours_of_the_same_kind(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    made = [result(c, 0.25) for c in SUITES["afrimgsm"].languages[:-2] if c != "swa"]
    made += [result("swa", 0.0), result("swa", 0.75, budget=1024)]
    about = {"suite": "afrimgsm", "metric": "pass@12", "where": "a paper, Table 1"}
    numbers = [
        Published(**about, value=20.61, budget=4096),
        Published(**about, value=47.6, budget=4096, language="swa"),
        Published(**about | {"metric": "pass@16"}, value=1.0, budget=4096),
    ]
    show_published([number.model_dump() for number in numbers], made, SUITES["afrimgsm"])
    mean, ours, swa, own, other = capsys.readouterr().out.splitlines()[-5:]
    assert "20.61 %" in mean and ours.split() == ["m", "4,096", "23.53", "%"]
    assert "47.60 %" in swa and own.split() == ["m", "4,096", "0.00", "%"]
    assert "pass@16" in other and other.count("%") == 1
    named = numbers[0].model_copy(update={"where": "see [/table] 1, [x] :smile:"})
    show_published([named.model_dump()], made, SUITES["afrimgsm"])
    assert "see [/table] 1, [x] :smile:" in capsys.readouterr().out
    show_published([], made, SUITES["gsm8k"])
    assert capsys.readouterr().out == ""
