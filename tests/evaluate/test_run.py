"""Evaluations: rows that come once, whatever interrupts them, and numbers that follow from them."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import random
import signal
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.arrange import engine_for, problems, sampler_for
from tests.conftest import tiny_model

from opsd.evaluate import run
from opsd.evaluate.run import batches, evaluate, make_engine
from opsd.evaluate.samples import Protocol, Sample, described, locked, protocol, sample_rows
from opsd.grade.texts import MatchVerifier
from opsd.grade.verifier import MathVerifier
from opsd.lm.loading import load_model
from opsd.miniature.tokenizer import build_tokenizer
from opsd.prompts.contexts import StudentPrompt
from opsd.rollout.engine import Completion, EngineChoice, EngineSetup, Sampling
from opsd.rollout.hf import HFEngine
from opsd.runs.files import read_jsonl
from opsd.runs.json_files import sealed
from opsd.training.dev import dev_scores, summarise
from opsd.types import Finish, Problem, UserError

SWA, ZUL = problems(3), problems(2, "zul")


def asked(**changes: Any) -> Protocol:
    return replace(protocol(StudentPrompt(), Sampling(temperature=1.0), [8, 4, 8]), **changes)


def results(outcome: dict[str, Any]) -> list[dict[str, Any]]:
    return outcome["results"]


def result_of(folder: Path) -> list[dict[str, Any]]:
    return results(json.loads((folder / "result.json").read_text("utf-8")))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    """One evaluation that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    evaluate(str(tiny_folder), [*SWA, *ZUL], "suite", asked(), 3, folder)
    return folder


@pytest.fixture
def half(whole: Path, tmp_path: Path) -> Path:
    """The same, of which every second row is lost, and one was being written."""
    for name in ("samples.jsonl", "protocol.json"):
        (tmp_path / name).write_bytes((whole / name).read_bytes())
    kept = lines(whole)[::2]
    torn = lines(whole)[1].encode()[:41]
    (tmp_path / "samples.jsonl").write_bytes("".join(kept).encode() + torn)
    return tmp_path


def lines(folder: Path) -> list[str]:
    return (folder / "samples.jsonl").read_text("utf-8").splitlines(keepends=True)


def test_a_protocol_samples_once_at_its_largest_budget():
    assert (asked().budgets, asked().sampling.max_tokens) == ((4, 8), 8)


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
    assert keys == [("swa", 4, 3, 3), ("swa", 8, 3, 3), ("zul", 4, 2, 3), ("zul", 8, 2, 3)]
    assert {row["labels"] for row in results(told)} == {"upstream"}
    assert told["seconds"] > 0


def test_an_evaluation_goes_on_after_half_of_its_rows_are_lost(
    whole: Path, half: Path, tiny_folder: Path
):
    kept = lines(half)[:-1]
    outcome = evaluate(str(tiny_folder), [*SWA, *ZUL], "suite", asked(), 3, half)
    assert results(outcome) == result_of(whole)
    assert sorted(lines(half)) == sorted(lines(whole))
    assert lines(half)[: len(kept)] == kept


def test_samples_problems_and_languages_are_added_to_those_that_are_there(
    whole: Path, tmp_path: Path, tiny_folder: Path
):
    model = str(tiny_folder)
    evaluate(model, SWA[:2], "suite", asked(), 1, tmp_path)
    first = lines(tmp_path)
    evaluate(model, SWA, "suite", asked(), 3, tmp_path)
    assert lines(tmp_path)[:2] == first
    outcome = evaluate(model, ZUL, "suite", asked(), 3, tmp_path)
    assert [row["language"] for row in results(outcome)] == ["zul", "zul"]
    assert sorted(lines(tmp_path)) == sorted(lines(whole))
    assert result_of(tmp_path) == result_of(whole)


def test_fewer_samples_than_there_are_score_the_first_ones(
    whole: Path, half: Path, tmp_path: Path, tiny_folder: Path
):
    (few,) = results(evaluate(str(tiny_folder), ZUL, "s", asked(budgets=(8,)), 2, tmp_path / "few"))
    before = (half / "samples.jsonl").write_bytes((whole / "samples.jsonl").read_bytes())
    *_, told = results(evaluate(str(tiny_folder), ZUL, "s", asked(), 2, half))
    assert told == few and told["samples"] == 2
    assert (half / "samples.jsonl").stat().st_size == before


def test_a_complete_evaluation_is_read_and_not_repeated(whole: Path, tmp_path: Path):
    """The model is not even loaded: the folder that it names is gone."""
    claim = json.loads((whole / "protocol.json").read_text()) | {"model": "gone", "weights": []}
    (tmp_path / "protocol.json").write_text(json.dumps(sealed(claim)))
    (tmp_path / "samples.jsonl").write_bytes((whole / "samples.jsonl").read_bytes())
    outcome = evaluate("gone", [*SWA, *ZUL], "suite", asked(), 3, tmp_path)
    assert results(outcome) == [{**row, "model": "gone"} for row in result_of(whole)]


def test_smaller_budgets_are_prefixes_of_the_largest(
    whole: Path, tmp_path: Path, tiny_folder: Path
):
    short = asked(budgets=(4,), sampling=Sampling(temperature=1.0, max_tokens=4))
    evaluate(str(tiny_folder), [*SWA, *ZUL], "suite", short, 3, tmp_path)
    long = {(row["problem"], row["sample"]): row for row in read_jsonl(whole / "samples.jsonl")}
    rows = list(read_jsonl(tmp_path / "samples.jsonl"))
    for row in rows:
        same = long[row["problem"], row["sample"]]
        assert same["completion"].startswith(row["completion"])
        within = {name: x for name, x in same["budgets"]["4"].items() if name != "chars"}
        assert within == {name: x for name, x in row["budgets"]["4"].items() if name != "chars"}
        assert same["budgets"]["4"]["cut_off"] is (same["tokens"] > 4 or row["finish"] == "length")
    assert any(
        len(row["completion"]) < len(long[row["problem"], row["sample"]]["completion"])
        for row in rows
    )


def test_a_sample_is_judged_by_what_it_has_said_within_each_budget(tokenizer):
    problem = Problem("2 + 2?", answer="4", metadata={"row": 7})
    said = tuple(tokenizer("so \\boxed{4} or \\boxed{5}")["input_ids"])
    early = len(tokenizer("so \\boxed{4} or")["input_ids"])
    budgets = (2, early, len(said))
    completion = Completion(said, (), Finish.STOP)
    [row] = sample_rows(
        [Sample({"sample": 0}, problem, completion)], tokenizer, asked(budgets=budgets)
    )
    judged = [tuple(row["budgets"][str(b)].values())[:4] for b in budgets]
    grams = [row["budgets"][str(b)]["repetition"][1] for b in budgets]
    assert grams == [max(0, b - 3) for b in budgets]
    # right, well-formed, cut off, said
    assert judged == [
        (False, False, True, None),
        (True, True, True, "4"),
        (False, True, False, "5"),
    ]
    assert row["row"] == 7


def test_thinking_is_seen_also_where_its_tags_are_special_tokens():
    thinking = build_tokenizer()
    thinking.add_special_tokens({"extra_special_tokens": ["<think>", "</think>"]})
    said = r"<think>\boxed{5}?</think> \boxed{4}<|im_end|>"
    made = Completion(tuple(thinking(said)["input_ids"]), (), Finish.STOP)
    how = asked(budgets=(len(made.ids),), verifier=MathVerifier(after_think=True))
    [row] = sample_rows([Sample({"sample": 0}, Problem("2 + 2?", answer="4"), made)], thinking, how)
    assert row["completion"] == said.removesuffix("<|im_end|>")
    (judged,) = row["budgets"].values()
    assert (judged["correct"], judged["format_ok"], judged["said"]) == (True, True, "4")


def test_a_think_prefix_is_prompt_and_not_part_of_the_budget(tmp_path: Path, tiny_folder: Path):
    prompt = StudentPrompt(
        prefill="<think>\n{{ think_prefix }}", template_options={"enable_thinking": True}
    )
    evaluate(str(tiny_folder), SWA[:1], "suite", asked(prompt=prompt), 2, tmp_path / "thinking")
    evaluate(str(tiny_folder), SWA[:1], "suite", asked(), 2, tmp_path / "plain")
    thinking, plain = (
        list(read_jsonl(tmp_path / name / "samples.jsonl")) for name in ("thinking", "plain")
    )
    assert [row["completion"] for row in thinking] != [row["completion"] for row in plain]
    assert all(row["tokens"] <= 8 and "<think>" not in row["completion"] for row in thinking)
    assert any(row["tokens"] == 8 for row in thinking)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"sampling": Sampling(temperature=0.5, max_tokens=8)},
        {"budgets": (8,)},
        {"prompt": StudentPrompt(template_options={"enable_thinking": True})},
        {"verifier": MathVerifier(after_think=True)},
        {"verifier": MatchVerifier()},
    ],
)
def test_a_folder_holds_samples_of_one_protocol(whole: Path, tiny_folder: Path, change: Any):
    before = lines(whole)
    with pytest.raises(UserError, match="samples of another kind"):
        evaluate(str(tiny_folder), SWA, "suite", asked(**change), 3, whole)
    assert lines(whole) == before


def test_a_folder_holds_samples_of_one_model(whole: Path):
    with pytest.raises(UserError, match="other weights"):
        evaluate("miniature", SWA, "suite", asked(), 3, whole)


def test_a_template_that_was_edited_is_another_protocol(tmp_path: Path, tiny_folder: Path):
    for text, folder in (("Do: {{ problem }}", "a"), ("Solve: {{ problem }}", "b")):
        prompt = StudentPrompt(template=text + "\n")
        evaluate(str(tiny_folder), SWA[:1], "s", asked(prompt=prompt), 1, tmp_path / folder)
    (tmp_path / "b" / "samples.jsonl").rename(tmp_path / "a" / "samples.jsonl")
    with pytest.raises(UserError, match="samples of another kind"):
        evaluate(str(tiny_folder), SWA[:1], "s", asked(prompt=prompt), 1, tmp_path / "a")


def test_texts_of_a_language_are_part_of_the_protocol(half: Path, tiny_folder: Path):
    claim = json.loads((half / "protocol.json").read_text())
    claim["languages"]["swa"] = "another"
    (half / "protocol.json").write_text(json.dumps(sealed(claim)))
    with pytest.raises(UserError, match="samples of another kind"):
        evaluate(str(tiny_folder), SWA, "suite", asked(), 3, half)
    evaluate(str(tiny_folder), ZUL, "suite", asked(), 3, half)
    assert json.loads((half / "protocol.json").read_text())["languages"]["swa"] == "another"


def test_an_evaluation_that_failed_before_its_first_sample_binds_nobody(
    tmp_path: Path, tiny_folder: Path
):
    with pytest.raises(UserError, match="cannot load the model 'no/such/model'"):
        evaluate("no/such/model", SWA, "suite", asked(), 1, tmp_path)
    evaluate(str(tiny_folder), SWA, "suite", asked(), 1, tmp_path)
    assert len(lines(tmp_path)) == 3


def test_a_row_that_occurs_twice_counts_twice(tmp_path: Path, tiny_folder: Path):
    twin = replace(SWA[0], metadata={"row": 9})
    outcome = evaluate(str(tiny_folder), [SWA[0], SWA[1], twin], "suite", asked(), 2, tmp_path)
    assert {row["n_problems"] for row in results(outcome)} == {3}
    rows = {(row["problem"], row["sample"]): row for row in read_jsonl(tmp_path / "samples.jsonl")}
    assert len(rows) == 6
    texts = {rows[key, i]["completion"] for key in (twin.id, f"{twin.id}-2") for i in (0, 1)}
    assert len(texts) == 4


def test_problems_without_an_answer_are_left_out_and_counted(
    tmp_path: Path, tiny_folder: Path, capsys
):
    bare = Problem("no answer", language="swa")
    outcome = evaluate(str(tiny_folder), [SWA[0], bare], "suite", asked(), 1, tmp_path)
    assert {row["n_problems"] for row in results(outcome)} == {1}
    assert "1 of 2 problems left out: no answer" in capsys.readouterr().err
    with pytest.raises(UserError, match="no problem has an answer"):
        evaluate("any", [bare], "suite", asked(), 1, tmp_path)


def test_a_prompt_that_leaves_no_room_for_the_budget_is_an_error_or_left_out(
    tmp_path: Path, tiny_folder: Path, capsys
):
    model, long = str(tiny_folder), Problem("yai " * 8185, answer="1", language="swa")
    with pytest.raises(UserError, match=r"exceeds the model's 8192 \(1 of 4 problems\)"):
        evaluate(model, [*SWA, long], "suite", asked(), 1, tmp_path)
    assert not (tmp_path / "samples.jsonl").exists()  # known before the first answer
    for _ in range(2):
        outcome = evaluate(model, [*SWA, long], "suite", asked(), 1, tmp_path, skip_long=True)
        assert {row["n_problems"] for row in results(outcome)} == {3}
        assert "1 of 4 problems left out: too long" in capsys.readouterr().err
    with pytest.raises(UserError, match="no prompt leaves room"):
        evaluate(model, [long], "suite", asked(), 1, tmp_path, skip_long=True)


def test_batches_keep_the_plan_and_the_limit():
    draw = random.Random(0)
    widths = {str(n): draw.randrange(5, 60) for n in range(40)}
    plan = [(key, i) for key in widths for i in range(3)]
    made = list(batches(plan, widths, 100))
    assert [item for batch in made for item in batch] == plan
    sizes = [len(batch) * max(widths[key] for key, _ in batch) for batch in made]
    assert max(sizes) <= 100
    for batch, (after, *_) in itertools.pairwise(made):
        longest = max(widths[key] for key, _ in [*batch, after])
        assert (len(batch) + 1) * longest > 100  # none could have taken one more
    assert list(batches(plan[:2], widths, 1)) == [plan[:1], plan[1:2]]  # too long alone: still one


def test_a_resumed_batch_is_not_drawn_in_other_company(
    whole: Path, tmp_path: Path, tiny_folder: Path, monkeypatch
):
    """What was drawn together when nothing was there is drawn together when the rest is."""
    monkeypatch.setattr(run, "_CPU_TOKENS", 100)
    calls: list[list[int]] = []
    generate = HFEngine.generate

    def told(self, prompts, sampling, seeds, progress=None):
        calls.append(list(seeds))
        return generate(self, prompts, sampling, seeds, progress)

    monkeypatch.setattr(HFEngine, "generate", told)
    evaluate(str(tiny_folder), [*SWA, *ZUL], "suite", asked(), 3, tmp_path)
    first = calls.copy()
    assert len(first) > 2 and max(map(len, first)) > 1
    del calls[:]
    kept = lines(tmp_path)[: len(first[0])]
    (tmp_path / "samples.jsonl").write_text("".join(kept), "utf-8")
    evaluate(str(tiny_folder), [*SWA, *ZUL], "suite", asked(), 3, tmp_path)
    assert calls == first[1:]


def test_two_evaluations_do_not_write_into_one_folder(tmp_path: Path, tiny_folder: Path):
    with (
        locked(tmp_path, described(asked(), str(tiny_folder), ["swa"])),
        pytest.raises(UserError, match="another evaluation is writing to"),
    ):
        evaluate(str(tiny_folder), SWA, "suite", asked(), 1, tmp_path)
    evaluate(str(tiny_folder), SWA, "suite", asked(), 1, tmp_path)


MANY = [*problems(8), *problems(8, "zul")]


def attempt(model: Path, folder: Path) -> multiprocessing.Process:
    """An evaluation in a process of its own, which starts at once: it is a copy of this one."""
    how = asked(budgets=(12, 24), sampling=Sampling(temperature=1.0, max_tokens=24))
    process = multiprocessing.get_context("fork").Process(
        target=evaluate, args=(str(model), MANY, "suite", how, 3, folder)
    )
    process.start()
    return process


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_killed_at_any_moment_and_resumed_equals_the_uninterrupted(
    tmp_path: Path, tiny_folder: Path, monkeypatch
):
    monkeypatch.setattr(run, "_CPU_TOKENS", 100)
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    start = time.monotonic()
    process = attempt(tiny_folder, tmp_path / "whole")
    process.join()
    took = time.monotonic() - start
    assert process.exitcode == 0
    draw, sizes, codes = random.Random(0), [0], []
    file = tmp_path / "killed" / "samples.jsonl"
    for _ in range(4):
        process = attempt(tiny_folder, tmp_path / "killed")
        while process.is_alive() and not (file.is_file() and file.stat().st_size > sizes[-1]):
            time.sleep(0.002)
        process.join(draw.uniform(0, 0.1) * took)
        process.kill()
        process.join()
        sizes.append(file.stat().st_size)
        codes.append(process.exitcode)
    assert -signal.SIGKILL in codes, sizes  # else nothing was left to do
    process = attempt(tiny_folder, tmp_path / "killed")
    process.join()
    assert process.exitcode == 0
    assert sorted(lines(tmp_path / "killed")) == sorted(lines(tmp_path / "whole"))
    assert result_of(tmp_path / "killed") == result_of(tmp_path / "whole")


def test_dev_scores_repeat_and_leave_the_runs_counters_alone(tokenizer):
    engine = engine_for(tiny_model(len(tokenizer)).eval(), tokenizer)
    sampler = sampler_for(engine, tokenizer)
    scores = dev_scores(sampler, SWA, 4)
    assert dev_scores(sampler, SWA, 4) == scores
    assert sampler.counts.generated_tokens == 0
    assert [(*score[:3], score[4]) for score in scores] == [(4, 2, 4, "swa")] * 3
    told = summarise(scores)
    assert (told["avg@k"], told["pass@k"], told["format_rate"]) == (0.5, 1.0, 1.0)
    assert told["mean_length"] == sum(score[3] for score in scores) / 12
    assert not [name for name in told if "/" in name]  # of one language the whole says it


def test_dev_scores_of_several_languages_are_told_apart():
    told = summarise([(4, 1, 2, 9, "swa"), (4, 3, 4, 9, "zul"), (2, 2, 2, 9, "zul")])
    assert told["avg@k"] == 6 / 10
    assert (told["avg@k/swa"], told["avg@k/zul"]) == (1 / 4, 5 / 6)
    assert (told["format_rate/swa"], told["format_rate/zul"]) == (1 / 2, 1.0)


def test_a_dev_split_of_which_nothing_fits_is_an_error():
    with pytest.raises(UserError, match="no dev problem fits"):
        summarise([])


class HalfAnEngine(EngineChoice):
    """Starts what cannot take weights."""

    def start(self, setup: EngineSetup) -> Any:
        there = dict.fromkeys(("shares_model", "is_remote", "pins_weights"), False)
        return SimpleNamespace(returns_logprobs=None, generate=None, pinned=None, **there)


def test_an_engine_that_lacks_something_is_one_line(tiny_folder, tokenizer):
    with pytest.raises(UserError) as error:
        make_engine(load_model(str(tiny_folder)), tokenizer, HalfAnEngine(), 64)
    told = "the engine types:SimpleNamespace lacks sync: see opsd.rollout.engine.Engine"
    assert str(error.value) == told
