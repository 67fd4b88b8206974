"""What a run is told of: a falling dev score, rollouts that teach nothing, traps at the start."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from tests.arrange import config, problems

from opsd import methods
from opsd.data.controls import shuffled
from opsd.lm.loading import load_model
from opsd.methods import Method
from opsd.methods.signals import Advantage, Distill, Sum, Teacher
from opsd.objective.credit import GroupNormalised
from opsd.objective.divergences import forward_kl
from opsd.objective.total import Reduction
from opsd.objective.weighting import ImportanceWeight, SkipFirst
from opsd.prompts.contexts import Solution, StudentPrompt
from opsd.rollout.engine import Completion
from opsd.rollout.hf import HFEngine
from opsd.rollout.horizon import Truncated
from opsd.rollout.sources import OnPolicy
from opsd.runs.files import read_jsonl
from opsd.teacher.weights import EMA, External, Live, Snapshot
from opsd.training.checks import config_warnings, refuse_separate_processes
from opsd.training.monitor import (
    ERRORS,
    FLOOR,
    clip_below_zero,
    clip_turns,
    cut_short,
    diagnosis,
    idle,
    never_well_formed,
    score_drop,
)
from opsd.training.trainer import OPSDTrainer
from opsd.types import UserError

EVERY = 10
share = st.floats(0, 1)


def history(scores: Sequence[float], measure: Sequence[float], key: str = "loss") -> list[dict]:
    """What a run logs: a training line a step, an evaluation every ten steps."""
    rows: list[dict] = []
    for i, score in enumerate(scores):
        for j in range(EVERY):
            step = i * EVERY + j + 1
            rows.append({"step": step, key: measure[min(step, len(measure)) - 1]})
        rows.append({"step": rows[-1]["step"], "eval_avg@k": float(score)})
    return rows


def falling(n: int, start: float = 1.0, end: float = 0.0) -> list[float]:
    return np.linspace(start, end, n).tolist()


# A dev score that falls


@given(
    high=st.floats(0.5, 1),
    low=st.floats(0, 0.2),
    before=st.integers(1, 6),
    patience=st.integers(1, 3),
)
def test_a_fall_is_seen_after_exactly_as_many_evaluations_as_patience_asks_for(
    high: float, low: float, before: int, patience: int
):
    scores = [high] * before + [low] * 4
    for n in range(1, len(scores) + 1):
        found = score_drop(history(scores[:n], falling(200)), draws=400, patience=patience)
        assert (found is not None) == (n >= before + patience)
        if found is not None:
            assert found.best["step"] == EVERY and found.last["step"] == n * EVERY
            assert found.size == high - low
            assert diagnosis(found).startswith("collapse: ")


@given(scores=st.lists(share, min_size=1, max_size=12), draws=st.integers(1, 10_000))
def test_a_score_that_never_falls_is_never_spoken_of(scores: list[float], draws: int):
    assert score_drop(history(sorted(scores), falling(200)), draws, patience=1) is None


@given(scores=st.lists(share, min_size=1, max_size=12), draws=st.integers(1, 10_000))
def test_a_fall_is_larger_than_the_floor_and_than_the_noise(scores: list[float], draws: int):
    found = score_drop(history(scores, falling(200)), draws, patience=1)
    if found is not None:
        p, q = found.best["eval_avg@k"], found.last["eval_avg@k"]
        assert p == max(scores)
        assert p - q > FLOOR
        assert (p - q) ** 2 > ERRORS**2 * (p * (1 - p) + q * (1 - q)) / draws


@given(scores=st.lists(share, min_size=3, max_size=8))
def test_what_is_found_does_not_depend_on_where_a_run_was_resumed(scores: list[float]):
    rows = history(scores, falling(200))
    written = json.loads(json.dumps(rows))
    assert score_drop(written, 100, 2) == score_drop(rows, 100, 2)
    # A run killed after an evaluation and before its checkpoint evaluates that step again.
    again = [*rows, rows[-1]]
    assert score_drop(again, 100, 2) == score_drop(rows, 100, 2)


def alarms(p_RN: np.ndarray, samples: int, evaluations: int, random: np.random.Generator) -> float:
    """The share of runs with constant chances p [runs, problems] in which a fall is seen."""
    right_RE = random.binomial(samples, p_RN[:, None, :].repeat(evaluations, 1)).mean(-1)
    draws = p_RN.shape[1] * samples
    seen = 0
    for scores in right_RE / samples:
        rows = [{"step": i, "eval_avg@k": float(score)} for i, score in enumerate(scores)]
        seen += any(score_drop(rows[:n], draws, patience=2) for n in range(3, evaluations + 1))
    return seen / len(p_RN)


@pytest.mark.parametrize(("problems_", "samples"), [(20, 4), (100, 4), (30, 12)])
def test_noise_alone_is_rarely_taken_for_a_fall(problems_: int, samples: int):
    """Twenty evaluations of a model that does not change: the worst case, all problems equally
    hard, and one as measured, problems solved nearly always or hardly ever."""
    random = np.random.default_rng(0)
    shape = (500, problems_)
    assert alarms(np.full(shape, 0.5), samples, 20, random) < 0.10
    assert alarms(random.beta(0.5, 0.5, shape), samples, 20, random) < 0.02


def test_a_score_that_halves_is_seen_at_once():
    random = np.random.default_rng(0)
    seen = 0
    for _ in range(200):
        chances = random.beta(0.5, 0.5, 100)
        scores = [random.binomial(4, c * chances).mean() / 4 for c in (1, 1, 1, 0.5, 0.5)]
        seen += score_drop(history(scores, falling(50)), 400, patience=2) is not None
    assert seen > 190


def test_few_samples_say_less():
    rows = history([0.5, 0.35, 0.35], falling(30))
    assert score_drop(rows, 40, 2) is None
    assert score_drop(rows, 1000, 2) is not None


def test_a_dip_that_passes_is_no_fall():
    assert score_drop(history([0.8, 0.2, 0.8], falling(30)), 400, 2) is None
    assert score_drop(history([0.8, 0.2, 0.8, 0.2, 0.2], falling(50)), 400, 2) is not None


@pytest.mark.parametrize(
    ("key", "values", "collapses"),
    [
        ("loss", falling(40), True),
        ("loss", falling(40, 0.1, 3), False),
        ("loss", falling(40, -0.1, -0.3), True),
        ("reward", falling(40, 0.2, 0.9), True),
        ("reward", falling(40, 0.9, 0.1), False),
    ],
)
def test_a_fall_is_a_collapse_only_where_training_improves(key, values, collapses):
    found = score_drop(history([0.8, 0.8, 0.3, 0.2], values, key), 400, 2, key)
    assert found is not None
    told = diagnosis(found, key)
    assert told.startswith("collapse: ") == collapses
    assert ("diverges" in told) != collapses
    assert "0.800 (step 10)" in told and "0.200 (step 40)" in told and "\n" not in told


def test_the_untrained_model_may_have_been_the_best():
    rows = [{"step": 0, "eval_avg@k": 0.9}, *history([0.3, 0.2], falling(20))]
    found = score_drop(rows, 400, 2)
    assert found is not None and found.best["step"] == 0
    assert diagnosis(found).startswith("collapse: ")


def test_a_fall_without_training_lines_is_told_without_a_trend():
    rows = [{"step": i, "eval_avg@k": p} for i, p in enumerate([0.9, 0.1, 0.1])]
    assert "lower learning_rate" in diagnosis(score_drop(rows, 400, 2))


def test_the_line_says_how_answers_changed():
    rows = history([0.9, 0.1, 0.1], falling(30))
    for row, rate, length in zip(
        rows[EVERY :: EVERY + 1], (0.95, 0.5, 0.31), (80, 300, 511.6), strict=True
    ):
        row |= {"eval_format_rate": rate, "eval_mean_length": length}
    assert "(format rate 0.95 to 0.31, mean length 80 to 512)" in diagnosis(
        score_drop(rows, 400, 2)
    )


# Rollouts that teach nothing


def test_rollouts_that_are_nearly_all_cut_are_told_of_once():
    key = "completions/clipped_ratio"
    one, two = {"step": 1, key: 0.95}, {"step": 2, key: 0.95}
    assert "95 % of the rollouts" in cut_short([one], graded=False)
    assert "count as wrong" in cut_short([one], graded=True)
    assert "count as wrong" not in cut_short([one], graded=False)
    assert cut_short([{"step": 1, key: 0.5}], graded=True) is None
    assert cut_short([one, two], graded=True) is None
    assert cut_short([{"step": 1, "loss": 0.0}], graded=True) is None


def test_a_form_that_no_dev_completion_has_is_told_of_once():
    def told(*rates: float) -> str | None:
        return never_well_formed([{"step": i, "eval_format_rate": r} for i, r in enumerate(rates)])

    page = re.search(r"docs/\S+\.md", told(0.0) or "")
    assert page and (Path(__file__).parents[2] / page[0]).is_file()
    assert told() is None and told(0.1) is None and told(0.0, 0.0) is None


def test_groups_of_equal_rewards_are_told_of_after_five_steps_and_once():
    shares = [0.5, 1, 1, 1, 1, 1, 1, 1, 0.9, 1, 1, 1, 1, 1]
    rows = [{"step": i, "frac_reward_zero_std": share} for i, share in enumerate(shares)]
    told = [n for n in range(1, len(rows) + 1) if idle(rows[:n])]
    assert told == [6, 14]


# Runs


def run(folder: Path, model: Any, method: Any, train_set: Any, **changes: Any) -> OPSDTrainer:
    dev_set = changes.pop("eval_dataset", None)
    trainer = OPSDTrainer(
        model=str(model),
        method=method,
        args=config(folder, **changes),
        train_dataset=train_set,
        eval_dataset=dev_set,
    )
    trainer.train()
    return trainer


COLLAPSING: dict[str, Any] = {
    "max_steps": 12,
    "per_device_train_batch_size": 16,
    "learning_rate": 1e-3,
    "max_completion_length": 40,
    "eval_strategy": "steps",
    "eval_steps": 1,
    "eval_samples": 2,
    "save_strategy": "steps",
    "save_steps": 1,
    "load_best_model_at_end": True,
    "collapse": "stop",
}


def learns_wrong_texts(folder: Path, **changes: Any) -> OPSDTrainer:
    """Solutions of other problems: the loss falls, and so does what the model could do."""
    wrong = shuffled(problems(64, "eng"), seed=0)
    right = problems(72, "eng")[64:]
    settings = COLLAPSING | {"eval_dataset": right} | changes
    return run(folder, "miniature", methods.sft(), wrong, **settings)


def test_a_run_that_collapses_is_stopped_and_its_best_checkpoint_loaded(tmp_path, capsys):
    trainer = learns_wrong_texts(tmp_path)
    state = trainer.state
    assert state.global_step < 12
    lines = [line for line in capsys.readouterr().err.splitlines() if "collapse: dev" in line]
    assert len(lines) == 1 and "Training ends here" in lines[0]
    (noted,) = [row for row in read_jsonl(tmp_path / "metrics.jsonl") if "eval_collapse" in row]
    assert noted["step"] == state.global_step and noted["eval_collapse"] > 0.2
    scores = {r["step"]: r["eval_avg@k"] for r in state.log_history if "eval_avg@k" in r}
    best = min(step for step, score in scores.items() if score == max(scores.values()))
    assert best < state.global_step
    kept = load_file(tmp_path / f"checkpoint-{best}" / "model.safetensors")
    for name, parameter in trainer.model.named_parameters():
        if name in kept:
            assert torch.equal(parameter, kept[name])
    # Nothing is left to resume: the run is where it was.
    sizes = (tmp_path / "metrics.jsonl").stat().st_size
    again = OPSDTrainer(
        model="miniature",
        method=methods.sft(),
        args=config(tmp_path, **COLLAPSING),
        train_dataset=shuffled(problems(64, "eng"), seed=0),
        eval_dataset=problems(72, "eng")[64:],
    )
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == state.global_step
    assert (tmp_path / "metrics.jsonl").stat().st_size == sizes


def test_a_run_that_collapses_goes_on_where_only_a_warning_is_asked_for(tmp_path, capsys):
    trainer = learns_wrong_texts(tmp_path, collapse="warn", max_steps=4)
    assert trainer.state.global_step == 4
    lines = [line for line in capsys.readouterr().err.splitlines() if "collapse: dev" in line]
    assert len(lines) == 1 and "Training ends here" not in lines[0]


def test_nobody_watches_where_that_is_not_asked_for(tmp_path, tiny_folder):
    rows = history([0.9, 0.1, 0.1], falling(30))
    for choice, found in (("warn", True), ("stop", True), ("ignore", False)):
        args = config(tmp_path, collapse=choice)
        trainer = OPSDTrainer(
            str(tiny_folder), methods.sft(), args, problems(8), eval_dataset=problems(8)
        )
        watch = trainer.monitor
        assert (watch.found(rows) is not None) == found
        assert watch.ended(rows) == (choice == "stop")


def test_a_run_that_learns_is_left_alone(tmp_path, capsys):
    settings = COLLAPSING | {
        "learning_rate": 1e-4,
        "max_steps": 3,
        "eval_dataset": problems(8, "eng"),
    }
    trainer = run(tmp_path, "miniature", methods.sft(), problems(32, "eng"), **settings)
    assert trainer.state.global_step == 3
    assert "fell" not in capsys.readouterr().err


def test_rewards_that_never_differ_are_told_of(tmp_path, tiny_folder, capsys):
    short = {"max_steps": 7, "max_completion_length": 2, "collapse": "ignore"}
    run(tmp_path, tiny_folder, methods.grpo(group=2), problems(8), **short)
    lines = capsys.readouterr().err
    assert lines.count("warning: in 5 steps in a row") == 1
    assert lines.count("of the rollouts were cut off") == 1


def test_methods_that_need_no_reward_are_not_bothered_about_rewards(tmp_path, tiny_folder, capsys):
    method = replace(methods.opsd(), source=OnPolicy(group=2))
    short = {"max_steps": 6, "max_completion_length": 2, "collapse": "ignore"}
    run(tmp_path, tiny_folder, method, problems(8), **short)
    (line,) = [x for x in capsys.readouterr().err.splitlines() if "warning: " in x]
    assert "100 % of the rollouts were cut off" in line and "wrong" not in line


def test_a_method_that_cuts_its_rollouts_itself_is_not_told_of_it(tmp_path, tiny_folder, capsys):
    method = replace(methods.opsd(), source=OnPolicy(horizon=Truncated(0.5)))
    short = {"max_steps": 1, "max_completion_length": 4, "collapse": "ignore"}
    run(tmp_path, tiny_folder, method, problems(8), **short)
    assert "cut off" not in capsys.readouterr().err


def test_a_form_that_the_model_never_keeps_is_told_of_before_the_first_step(
    tmp_path, tiny_folder, capsys
):
    scored = {"eval_dataset": problems(4), "eval_strategy": "steps", "eval_steps": 1}
    scored |= {"eval_on_start": True, "eval_samples": 1}
    run(tmp_path, tiny_folder, methods.opsd(), problems(8), **scored)
    assert (
        capsys.readouterr().err.count("note: no completion of a dev problem has the expected") == 1
    )


# Traps at the start


def told(tmp_path: Path, model: Path, method: Any, train_set: Any = None, **changes: Any) -> str:
    """All that a run is told of at its start."""
    changes = {"collapse": "ignore"} | changes
    trainer = OPSDTrainer(
        model=str(model),
        method=method,
        args=config(tmp_path, **changes),
        train_dataset=problems(8) if train_set is None else train_set,
    )
    lines = config_warnings(trainer.setup, trainer.args.max_steps)
    assert all("\n" not in line for line in lines) and len(set(lines)) == len(lines)
    return "\n".join(lines)


def with_teacher(**parts: Any) -> methods.Method:
    """COPSD's prompts are alike at the boundary, so that only what is asked for is told."""
    method = methods.copsd()
    return replace(method, signal=replace(method.signal, **parts))


def weights(choice: Any) -> methods.Method:
    return with_teacher(teacher=replace(methods.copsd().signal.teacher, weights=choice))


def test_gold_answers_that_nothing_matches_are_told_of(tmp_path, tiny_folder):
    text = "Because 1 + 1 = 2 the right answer is 12 apples"
    given = [replace(p, answer=text) for p in problems(8)]
    lines = told(tmp_path, tiny_folder, methods.copsd(), [*given, *problems(2)])
    assert lines.startswith("8 of 10 gold answers are sentences")


def test_an_ordinary_method_is_told_of_nothing(tmp_path, tiny_folder):
    assert told(tmp_path, tiny_folder, methods.copsd()) == ""
    assert told(tmp_path, tiny_folder, methods.sft()) == ""
    assert told(tmp_path, tiny_folder, methods.star()) == ""
    cut = {"top_p": 0.9, "top_k": 20, "temperature": 1.1}
    assert told(tmp_path, tiny_folder, methods.copsd(), **cut) == ""


@pytest.mark.parametrize(
    ("choice", "steps", "expected"),
    [
        (Live(), 100, "live teacher"),
        (EMA(0.999), 40, "EMA teacher will hardly move: 96%"),
        (EMA(0.999), 100, ""),
        (EMA(0.9), 40, ""),
        (EMA(0.0), 1, ""),
        (Snapshot(10), 10, "never reach"),
        (Snapshot(10), 11, ""),
    ],
)
def test_teachers_that_run_away_or_stand_still(tmp_path, tiny_folder, choice, steps, expected):
    text = told(tmp_path, tiny_folder, weights(choice), max_steps=steps)
    assert expected in text and bool(text) == bool(expected)


def test_the_decay_that_is_advised_is_told_of_no_more(tmp_path, tiny_folder):
    text = told(tmp_path, tiny_folder, weights(EMA(0.9999)), max_steps=50)
    advised = float(re.search(r"to about ([\d.]+),", text).group(1))
    assert 0 < advised < 1
    assert told(tmp_path, tiny_folder, weights(EMA(advised)), max_steps=50) == ""


@pytest.mark.parametrize(
    "method", [methods.sampled_token(), methods.grpo(group=4)], ids=lambda m: m.name
)
def test_cut_sampling_is_a_trap_for_losses_on_sampled_tokens(tmp_path, tiny_folder, method):
    method = replace(method, student=StudentPrompt())
    text = told(tmp_path, tiny_folder, method, top_p=0.9, per_device_train_batch_size=16)
    assert "top_p cut the distribution" in text and "--set sampling.top_p=1" in text
    text = told(tmp_path, tiny_folder, method, top_k=5, min_p=0.1, per_device_train_batch_size=16)
    assert "top_k and min_p cut" in text and "--set sampling.top_k=0 --set sampling.min_p=0" in text
    assert "cut" not in told(tmp_path, tiny_folder, method, per_device_train_batch_size=16)


def test_importance_weights_are_ratios_too(tmp_path, tiny_folder):
    method = with_teacher(weighting=(ImportanceWeight(),))
    assert "top_p cut" in told(tmp_path, tiny_folder, method, top_p=0.9)
    assert told(tmp_path, tiny_folder, method) == ""


def test_a_loss_at_another_temperature_than_the_rollouts(tmp_path, tiny_folder):
    method = with_teacher(temperature=0.7)
    assert "compares at 0.7" in told(tmp_path, tiny_folder, method, temperature=1.0)
    assert told(tmp_path, tiny_folder, method, temperature=0.7) == ""
    assert told(tmp_path, tiny_folder, methods.star(), temperature=0.7) == ""


def test_few_problems_a_step_are_told_of_where_rewards_are_compared(tmp_path, tiny_folder):
    method = methods.grpo(group=4)
    text = told(tmp_path, tiny_folder, method, gradient_accumulation_steps=2)
    assert "8 rollouts are 2 problem(s) x 4" in text
    assert told(tmp_path, tiny_folder, method, gradient_accumulation_steps=4) == ""
    assert told(tmp_path, tiny_folder, methods.copsd(), per_device_train_batch_size=1) == ""
    assert "groups of 1" in told(tmp_path, tiny_folder, methods.grpo(group=1))


def test_a_run_without_dev_problems_is_told_that_nobody_watches(tmp_path, tiny_folder):
    for choice in ("warn", "stop"):
        assert "set data.dev" in told(tmp_path, tiny_folder, methods.copsd(), collapse=choice)
    watched = OPSDTrainer(
        model=str(tiny_folder),
        method=methods.copsd(),
        args=config(tmp_path, eval_strategy="steps", eval_steps=1),
        train_dataset=problems(8),
        eval_dataset=problems(2, "yor"),
    )
    assert config_warnings(watched.setup, watched.args.max_steps) == []


def test_a_teacher_that_reads_what_the_student_reads(tmp_path, tiny_folder):
    same = replace(
        methods.opsd(),
        student=StudentPrompt(),
        signal=Distill(Teacher(StudentPrompt()), forward_kl),
    )
    assert "nothing to learn from it" in told(tmp_path, tiny_folder, same)
    live = replace(same, signal=Distill(Teacher(StudentPrompt(), weights=Live()), forward_kl))
    assert "nothing to learn from it" in told(tmp_path, tiny_folder, live)
    # From another model, or beside another signal, it is what is meant.
    other = Distill(Teacher(StudentPrompt(), weights=External(str(tiny_folder))), forward_kl)
    assert told(tmp_path, tiny_folder, replace(same, signal=other)) == ""
    beside = methods.grpo(beta=0.1, group=4)
    assert told(tmp_path, tiny_folder, beside, gradient_accumulation_steps=4) == ""


def test_the_first_token_is_told_of_where_it_is_taught(tmp_path, tiny_folder):
    method = methods.opsd()
    assert "first token" in told(tmp_path, tiny_folder, method)
    later = replace(method, signal=replace(method.signal, weighting=(SkipFirst(1),)))
    assert told(tmp_path, tiny_folder, later) == ""


def test_every_signal_of_a_sum_is_looked_at(tmp_path, tiny_folder):
    reward = Advantage(GroupNormalised(), reduction=Reduction(unit="sequence"))
    live = Distill(Teacher(Solution(), weights=Live()), forward_kl)
    method = replace(methods.grpo(group=4), signal=Sum(((1.0, reward), (0.1, live))))
    text = told(tmp_path, tiny_folder, method, top_p=0.9)
    assert all(mark in text for mark in ("live teacher", "problem(s) x 4", "top_p cut"))


def test_what_is_told_is_printed_once_when_training_begins(tmp_path, tiny_folder, capsys):
    run(tmp_path, tiny_folder, weights(Live()), problems(8), collapse="ignore")
    assert capsys.readouterr().err.count("note: a live teacher") == 1


def test_a_watch_has_no_state(tmp_path, tiny_folder):
    trainer = OPSDTrainer(str(tiny_folder), methods.copsd(), config(tmp_path), problems(8))
    assert set(vars(trainer.monitor)) == {"setup", "write"}


def test_processes_that_do_not_know_of_each_other_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match=r"started 2 processes.*train\.use_cpu=true"):
        refuse_separate_processes(1)
    refuse_separate_processes(2)


class Silent(HFEngine):
    """Generates without telling log-probabilities."""

    def generate(self, *args: Any, **kwargs: Any) -> list[Completion]:
        return [replace(made, logprobs=None) for made in super().generate(*args, **kwargs)]


def test_losses_that_need_sampling_log_probabilities_refuse_an_engine_that_tells_none(
    tmp_path, tiny_folder, tokenizer
):
    def run(name: str, method: Method) -> OPSDTrainer:
        model = load_model(str(tiny_folder))
        engine = Silent(model, eos_ids=[tokenizer.eos_token_id], pad_id=0, vocab=len(tokenizer))
        how = config(tmp_path / name)
        return OPSDTrainer(
            model, method, how, problems(8), processing_class=tokenizer, engine=engine
        )

    run("distilled", methods.opsd()).train()
    with pytest.raises(UserError, match="'advantage' needs the sampling log-probs"):
        run("rewarded", methods.grpo(group=2)).train()


# A clip that reverses the objective


def curves(loss: Sequence[float], divergence: Sequence[float]) -> list[dict]:
    pairs = enumerate(zip(loss, divergence, strict=True), 1)
    return [{"step": i, "loss": x, "divergence": d} for i, (x, d) in pairs]


MEASURED = curves([0.056, 0.024, 0.018, 0.010, 0.002], [0.121, 0.139, 0.151, 0.178, 0.172])
"""SmolLM2-135M-Instruct, OPSD with its cap of 0.05, learning rate 5e-4."""


def test_a_loss_that_falls_while_the_divergence_rises_is_told_at_once():
    told = clip_turns(MEASURED)
    assert told and "from step 1 to 5 the divergence from the teacher rose from 0.1210 to" in told
    assert "from 0.0560 to 0.0020" in told and "pointwise_clip" in told and "clip_tokens" in told
    assert clip_turns(MEASURED[:4]) is None
    more = [*MEASURED, {"step": 6, "loss": 0.001, "divergence": 0.18}]
    assert clip_turns(more) is None  # it has been said
    below = curves([0.0018, -0.003, -0.004, -0.006, -0.0103], [1.1, 1.3, 1.4, 1.5, 1.6])
    assert "below zero" in (clip_turns(below) or "")


def test_a_clipped_loss_that_stays_below_zero_is_told_once():
    losses = [0.01, -0.001, -0.002, -0.001, -0.003, -0.002, -0.004, 0.001, *[-0.01] * 9]
    told = {n: clip_below_zero(curves(losses[:n], losses[:n])) for n in range(len(losses) + 1)}
    assert [n for n, line in told.items() if line] == [6]
    assert "for 5 log lines, -0.0020 by now" in told[6] and "pointwise_clip" in told[6]
    now_and_then = [0.01, -0.001] * 20
    assert not any(clip_below_zero(curves(now_and_then[:n], now_and_then[:n])) for n in range(41))


def test_learning_is_no_inversion():
    measured = [0.121, 0.131, 0.091, 0.078, 0.060, 0.082, 0.086, 0.083]
    assert all(clip_turns(curves(measured[:n], measured[:n])) is None for n in range(9))
    assert clip_turns(curves(falling(9), falling(9, 0.1, 0.0999))) is None
    assert clip_turns(curves([math.nan] * 0, [])) is None
    missing = [{"step": i, "loss": None, "divergence": 0.1 * i} for i in range(9)]
    assert clip_turns(missing) is None


def test_noise_is_seldom_taken_for_an_inversion():
    draw = np.random.default_rng(0)
    told = 0
    for _ in range(100):
        rows = curves(draw.normal(1, 0.2, 40).tolist(), draw.normal(1, 0.2, 40).tolist())
        told += any(clip_turns(rows[:n]) for n in range(5, 41))
    assert told <= 15


@pytest.mark.parametrize("clipped", [True, False])
def test_a_run_says_that_its_clip_turns_the_objective_round(tmp_path, capsys, clipped):
    """At this rate the built-in model leaves its teacher, and the loss does not show it."""
    method = methods.opsd() if clipped else methods.opsd(divergence=forward_kl)
    args = config(
        tmp_path,
        max_steps=10,
        per_device_train_batch_size=16,
        max_completion_length=40,
        temperature=1.1,
        max_grad_norm=0.1,
    )
    OPSDTrainer("miniature", method, args, problems(200)).train()
    told = capsys.readouterr().err
    assert ("warning: the clip reverses the objective: from step 1 to" in told) == clipped
