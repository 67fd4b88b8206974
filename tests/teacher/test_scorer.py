"""What is read once is not read again, and nothing else changes: through whole runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.arrange import config, gap, odd_length, problems, weights_of
from tests.teacher.test_alignment import STUDENTS, divergences

from opsd import OPSDTrainer, methods
from opsd.lm.forward import causal_lm
from opsd.methods.signals import Sum
from opsd.objective.divergences import reverse_kl
from opsd.rollout.sources import OnPolicy
from opsd.teacher.scorer import ScoringPlan, TeacherScorer, together
from opsd.teacher.weights import EMA, Frozen, Live

ROWS = [replace(p, prompt=p.text * (1 + i % 3), id="") for i, p in enumerate(problems(8))]
OWN = methods.grpo(beta=0.1, group=2, reuse=2)
"""Rewards, and the distance from the start on the student's own prompt."""


@pytest.fixture
def read(monkeypatch) -> list[list[tuple[int, int]]]:
    """Shapes of what teachers' trunks are given, a list per pass."""
    passes: list[list[tuple[int, int]]] = []
    original = TeacherScorer.read

    def counted(self: TeacherScorer, plan: ScoringPlan, model: Any) -> Any:
        passes.append([])
        note = causal_lm(model).model.register_forward_pre_hook(
            lambda trunk, args, kwargs: passes[-1].append(tuple(kwargs["input_ids"].shape)),
            with_kwargs=True,
        )
        try:
            return original(self, plan, model)
        finally:
            note.remove()

    monkeypatch.setattr(TeacherScorer, "read", counted)
    return passes


def run(folder: Path, model: Path, method: Any, **changes: Any) -> OPSDTrainer:
    return OPSDTrainer(str(model), method, config(folder, **changes), ROWS, verifier=odd_length)


def with_weights(method: Any, weights: Any) -> Any:
    (rewards, (beta, own)) = method.signal.terms
    own = replace(own, teacher=replace(own.teacher, weights=weights))
    return replace(method, signal=Sum((rewards, (beta, own))))


def test_a_frozen_teacher_reads_reused_rollouts_once(tmp_path, tiny_folder, read):
    kept = run(tmp_path / "1", tiny_folder, OWN, max_steps=4)
    kept.train()
    assert [bool(shapes) for shapes in read] == [True, False, True, False]
    read.clear()
    again = run(tmp_path / "2", tiny_folder, OWN, max_steps=4)
    again.learner.scorer.lasting = frozenset()
    start = weights_of(again.model)
    again.train()
    assert all(read) and gap(start, weights_of(again.model)) > 1e-4
    assert gap(weights_of(kept.model), weights_of(again.model)) == 0


@pytest.mark.parametrize("weights", [EMA(decay=0.5), Live()], ids=lambda w: w.type)
def test_a_teacher_that_moves_reads_them_every_time(weights, tmp_path, tiny_folder, read):
    run(tmp_path, tiny_folder, with_weights(OWN, weights), max_steps=2).train()
    assert len(read) == 2 and all(read)


def test_rows_are_kept_until_the_rollouts_are_spent_and_only_for_them(tmp_path, tiny_folder):
    trainer = run(tmp_path, tiny_folder, OWN, max_steps=3)
    trainer.train()
    lengths = [len(r.completion_ids) for group in trainer._groups for r in group.rollouts]
    rows = trainer.learner.scorer.remembered.values()
    assert sorted(map(len, rows)) == sorted(lengths)
    once = run(tmp_path / "once", tiny_folder, replace(OWN, reuse=1), max_steps=1)
    once.train()
    assert not once.learner.scorer.remembered


def test_traces_leave_nothing_behind(tmp_path, tiny_folder):
    """They read alone what a pass reads in company, which rounds otherwise."""
    quiet, traced = (
        run(tmp_path / str(every), tiny_folder, OWN, max_steps=2, trace_steps=every)
        for every in (0, 1)
    )
    quiet.train()
    traced.train()
    assert (tmp_path / "1" / "traces").is_dir()
    assert gap(weights_of(quiet.model), weights_of(traced.model)) == 0


def test_a_run_goes_on_in_the_middle_of_a_reuse(tmp_path, tiny_folder):
    saved = {"save_strategy": "steps", "save_steps": 1}
    whole = run(tmp_path / "a", tiny_folder, OWN, max_steps=4, **saved)
    whole.train()
    run(tmp_path / "b", tiny_folder, OWN, max_steps=3, **saved).train()
    again = run(tmp_path / "b", tiny_folder, OWN, max_steps=4, **saved)
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == 4
    assert gap(weights_of(whole.model), weights_of(again.model)) == 0


def test_two_signals_with_one_teacher_read_it_once(tmp_path, tiny_folder, read):
    one = methods.opsd().signal
    other = replace(one, divergence=reverse_kl)
    both = replace(methods.opsd(), signal=Sum(((1.0, one), (0.5, other))))
    run(tmp_path / "1", tiny_folder, both, max_steps=1).train()
    apart = replace(other, teacher=replace(other.teacher, weights=Live()))
    run(
        tmp_path / "2",
        tiny_folder,
        replace(both, signal=Sum(((1.0, one), (0.5, apart)))),
        max_steps=1,
    ).train()
    assert [len(shapes) for shapes in read] == [1, 2]


def test_a_prompt_is_read_once_per_group(tmp_path, tiny_folder, read):
    """At the first step a live teacher is the frozen one, so that ways of reading compare."""
    method = replace(methods.opsd(), source=OnPolicy(group=4))
    sizes = {"per_device_train_batch_size": 8, "max_steps": 1, "optim": "sgd"}
    shared = run(tmp_path / "1", tiny_folder, method, **sizes)
    shared.train()
    ((prompts, completions),) = read
    assert prompts[0] == 2 and completions[0] == 8 and completions[1] <= 6
    plain = run(tmp_path / "2", tiny_folder, method, **sizes)
    plain.learner.scorer.sharing = frozenset()
    plain.train()
    ((whole,),) = read[1:]
    assert whole[0] == 8 and whole[1] > prompts[1]
    assert gap(weights_of(shared.model), weights_of(plain.model)) < 1e-6


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_the_same_prompt_read_once_gives_no_divergence(
    lora, tiny_folder, tokenizer, tmp_path, read
):
    found, rows = divergences(
        tiny_folder,
        tokenizer,
        tmp_path,
        student=STUDENTS["thinking off"],
        source=OnPolicy(group=4),
        lora=lora,
        per_device_train_batch_size=4,
        trace_steps=0,
    )
    assert len(rows) == 8 and all(len(shapes) == 2 and shapes[0][0] == 1 for shapes in read)
    assert found.abs().max() < 1e-6


def test_processes_read_in_step():
    """One has two passes, the other one, whose teacher's rows are there already."""
    frozen, live = Frozen(), Live()
    first = [ScoringPlan(forwards={frozen: 2}), ScoringPlan(forwards={frozen: 1})]
    second = [ScoringPlan(forwards={frozen: 0, live: 1})]
    told = [[plan.forwards for plan in plans] for plans in (first, second)]
    for own in (first, second):
        level = together(own, lambda mine: told)
        assert [plan.forwards for plan in level] == [{frozen: 2}, {frozen: 1, live: 1}]
