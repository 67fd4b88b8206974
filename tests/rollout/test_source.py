"""Where completions come from: one engine call per phase, and which prompt goes where."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from tests.arrange import engine_for, problems, sampler_for
from tests.conftest import tiny_model
from torch import nn

from opsd.methods.signals import Likelihood, loss_terms
from opsd.prompts.contexts import Solution, StudentPrompt
from opsd.prompts.prompt import prompt_ids
from opsd.rollout.engine import Sampling, prompt_seed
from opsd.rollout.hf import HFEngine
from opsd.rollout.sources import FromDataset, KeepCorrect, OnPolicy, Sampler
from opsd.teacher.weights import EMA, Frozen
from opsd.training.examples import training_examples
from opsd.types import Finish, Group, Problem, UserError, Verdict


class Counted(HFEngine):
    """The real engine; remembers what it was asked, and with which model it answered."""

    calls: list[tuple[int, Sampling, list[int]]]

    def generate(self, prompts: Any, sampling: Any, seeds: Any, progress: Any = None) -> Any:
        self.calls.append((len(prompts), sampling, list(seeds)))
        return super().generate(prompts, sampling, seeds, progress)


@pytest.fixture(scope="module")
def model(tokenizer) -> nn.Module:
    return tiny_model(len(tokenizer)).eval()


@pytest.fixture
def engine(model, tokenizer) -> Counted:
    made = Counted(
        model, eos_ids=[tokenizer.eos_token_id], pad_id=tokenizer.pad_token_id, vocab=len(tokenizer)
    )
    made.calls = []
    return made


def ids_of(tokenizer: Any, problem: Problem, context: Any) -> tuple[int, ...]:
    (view,) = context(Group(problem, ()), 0)
    return prompt_ids(tokenizer, view)


def wrong(pairs: Sequence[tuple[Problem, str]]) -> list[Verdict]:
    return [Verdict(0.0, False, False) for _ in pairs]


def test_on_policy_samples_groups_in_one_call(engine, tokenizer):
    sampler = sampler_for(engine, tokenizer)
    rows = problems(3)
    groups = OnPolicy(group=2)(rows, sampler, 7)
    assert [g.problem for g in groups] == rows
    assert [len(g.rollouts) for g in groups] == [2, 2, 2]
    ((count, sampling, seeds),) = engine.calls
    assert (count, sampling.max_tokens) == (6, 5)
    assert seeds == [prompt_seed(0, 7, p.id, i, "rollout") for p in rows for i in range(2)]
    for group in groups:
        for rollout in group.rollouts:
            assert rollout.prompt_ids == ids_of(tokenizer, group.problem, StudentPrompt())
            assert len(rollout.logprobs) == len(rollout.completion_ids)
            assert rollout.verdict is not None
            assert rollout.text == tokenizer.decode(
                rollout.completion_ids, skip_special_tokens=True
            )
    total = sum(len(r.completion_ids) for g in groups for r in g.rollouts)
    assert sampler.counts.generated_tokens == total


def test_verdicts_belong_to_their_own_completions(engine, tokenizer):
    def by_text(pairs: Sequence[tuple[Problem, str]]) -> list[Verdict]:
        return [Verdict(len(p.text) + len(t) / 1000, True, True) for p, t, _ in pairs]

    sampler = sampler_for(engine, tokenizer, verify=by_text)
    for group in OnPolicy(group=3)(problems(3), sampler, 0):
        for r in group.rollouts:
            assert r.verdict.reward == len(group.problem.text) + len(r.text) / 1000


def test_steps_seeds_and_samples_give_other_completions(engine, tokenizer):
    (row,) = problems(1)

    def made(step: int, **changes: Any) -> tuple[tuple[int, ...], ...]:
        (group,) = OnPolicy(group=2)([row], sampler_for(engine, tokenizer, **changes), step)
        return tuple(r.completion_ids for r in group.rollouts)

    assert made(0) == made(0)
    drawn = [*made(0), *made(1), *made(0, seed=1)]
    assert len(set(drawn)) == 6


def test_a_problem_that_comes_twice_in_a_step_is_sampled_twice(engine, tokenizer):
    (row,) = problems(1)
    groups = OnPolicy(group=2)([row, row], sampler_for(engine, tokenizer), 0)
    assert len({r.completion_ids for g in groups for r in g.rollouts}) == 4


def test_a_view_and_weights_of_its_own_are_used_for_sampling(engine, tokenizer, model):
    other = tiny_model(len(tokenizer))
    other.lm_head.weight.data.mul_(5)
    borrowed = []

    @contextmanager
    def borrow(weights: Any):
        borrowed.append(weights)
        engine.sync(other)
        yield
        engine.sync(model)

    sampler = sampler_for(engine, tokenizer, use_weights=borrow)
    source = OnPolicy(view=Solution(), weights=EMA(decay=0.9))
    (group,) = source(problems(1), sampler, 0)
    assert borrowed == [EMA(decay=0.9)]
    prompt = ids_of(tokenizer, group.problem, Solution())
    assert group.rollouts[0].prompt_ids == prompt
    seed = prompt_seed(0, 0, group.problem.id, 0, "rollout")
    expected = engine_for(other, tokenizer).generate([prompt], Sampling(max_tokens=5), [seed])
    assert group.rollouts[0].completion_ids == expected[0].ids
    assert group.rollouts[0].logprobs == pytest.approx(expected[0].logprobs, abs=1e-5)


def test_weights_are_borrowed_only_where_a_source_asks(engine, tokenizer):
    def borrow(weights: Any) -> Any:
        raise AssertionError(weights)

    sampler = sampler_for(engine, tokenizer, use_weights=borrow)
    assert OnPolicy()(problems(1), sampler, 0)
    with pytest.raises(AssertionError, match="Frozen"):
        OnPolicy(weights=Frozen())(problems(1), sampler, 0)


def test_from_dataset_closes_the_solution_with_the_ending_token(engine, tokenizer):
    (row,) = problems(1)
    (group,) = FromDataset()([row], sampler_for(engine, tokenizer), 0)
    (rollout,) = group.rollouts
    assert engine.calls == []
    assert rollout.completion_ids[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(rollout.completion_ids[:-1]) == row.privileged["solution"]
    assert rollout.prompt_ids == ids_of(tokenizer, row, StudentPrompt())
    assert (rollout.logprobs, rollout.verdict, rollout.finish) == (None, None, Finish.STOP)


def test_from_dataset_names_a_text_that_is_lacking(engine, tokenizer):
    row = Problem("p", privileged={"translation": "t"})
    with pytest.raises(
        UserError, match=r"no 'solution', which is to be learned; .* it has: translation"
    ):
        FromDataset()([row], sampler_for(engine, tokenizer), 0)


def test_keep_correct_drops_wrong_rollouts_and_keeps_the_groups(engine, tokenizer):
    sampler = sampler_for(engine, tokenizer)  # every second one is right
    groups = KeepCorrect(OnPolicy(group=4))(problems(2), sampler, 0)
    assert [len(g.rollouts) for g in groups] == [2, 2]
    assert all(r.verdict.correct for g in groups for r in g.rollouts)
    assert len(engine.calls) == 1


def test_without_a_right_rollout_and_without_a_retry_a_group_is_empty(engine, tokenizer):
    sampler = sampler_for(engine, tokenizer, verify=wrong)
    (group,) = KeepCorrect(OnPolicy(group=4))(problems(1), sampler, 0)
    assert group.rollouts == ()


def test_retried_rollouts_keep_the_hint_and_are_learned_without_it(engine, tokenizer):
    rows = problems(4)
    failing = {rows[1].id, rows[3].id}
    asked: list[list[str]] = []

    def verify(pairs: Sequence[tuple[Problem, str]]) -> list[Verdict]:
        first = not asked
        asked.append([p.id for p, *_ in pairs])
        right = [not first or p.id not in failing for p, *_ in pairs]
        return [Verdict(float(yes), yes, True) for yes in right]

    sampler = sampler_for(engine, tokenizer, verify=verify)
    source = KeepCorrect(OnPolicy(), retry=OnPolicy(view=Solution()))
    groups = source(rows, sampler, 3)
    assert [call[0] for call in engine.calls] == [4, 2]  # one call per phase
    assert asked[1] == [rows[1].id, rows[3].id]
    assert engine.calls[1][2] == [prompt_seed(0, 3, i, 0, "retry") for i in asked[1]]
    assert [g.problem for g in groups] == rows
    made = training_examples(groups, loss_terms(Likelihood()), sampler)
    assert len(made) == 4
    for example in made:
        hint = example.problem.id in failing
        read = ids_of(tokenizer, example.problem, Solution() if hint else StudentPrompt())
        assert example.rollout.prompt_ids == read
        assert example.prompt_ids == ids_of(tokenizer, example.problem, StudentPrompt())


def test_problems_that_fail_twice_in_one_step_are_retried_apart(engine, tokenizer):
    (row,) = problems(1)
    rounds: list[int] = []

    def verify(pairs: Sequence[tuple[Problem, str]]) -> list[Verdict]:
        rounds.append(len(pairs))
        return [Verdict(1.0, len(rounds) > 1, True) for _ in pairs]

    source = KeepCorrect(OnPolicy(), retry=OnPolicy(view=Solution()))
    one, two = source([row, row], sampler_for(engine, tokenizer, verify=verify), 0)
    assert rounds == [2, 2]
    assert one.rollouts[0].completion_ids != two.rollouts[0].completion_ids


def longer(n: int) -> Problem:
    return Problem("yai " * n, privileged={"solution": "s " * n})


def limited(engine: Any, tokenizer: Any, **changes: Any) -> Sampler:
    return sampler_for(engine, tokenizer, limit=300, **changes)


def test_a_prompt_over_the_limit_is_an_error_with_its_numbers(engine, tokenizer):
    row = longer(400)
    n = len(ids_of(tokenizer, row, StudentPrompt()))
    with pytest.raises(UserError) as error:
        OnPolicy()([row], limited(engine, tokenizer), 0)
    told = str(error.value)
    assert told.startswith(f"problem {row.id}: the prompt 'student' has {n} tokens; with 5 for")
    assert "the limit of 300" in told and "prompt_too_long: skip" in told
    assert engine.calls == []


def test_the_limit_counts_the_horizon(engine, tokenizer):
    row = longer(10)
    n = len(ids_of(tokenizer, row, StudentPrompt()))
    fits = sampler_for(engine, tokenizer, limit=n + 5, too_long="skip")
    assert OnPolicy()([row], fits, 0) and fits.counts.skipped == 0
    fits = replace(fits, limit=n + 4)
    assert OnPolicy()([row], fits, 0) == [] and fits.counts.skipped == 1


@pytest.mark.parametrize("source", [OnPolicy(group=2), KeepCorrect(OnPolicy(group=2))])
def test_skipping_leaves_such_problems_out_and_counts_them(engine, tokenizer, source):
    rows = [problems(1)[0], longer(400), *problems(3)[1:], longer(500)]
    sampler = limited(engine, tokenizer, too_long="skip")
    groups = source(rows, sampler, 0)
    assert [g.problem for g in groups] == [rows[0], *rows[2:4]]
    assert sampler.counts.skipped == 2
    assert engine.calls[0][0] == 6


def test_where_every_prompt_is_too_long_the_engine_is_not_called(engine, tokenizer):
    sampler = limited(engine, tokenizer, too_long="skip")
    assert OnPolicy()([longer(400)] * 2, sampler, 0) == []
    assert (engine.calls, sampler.counts.skipped) == ([], 2)


def test_a_written_solution_over_the_limit_is_skipped_and_counted(engine, tokenizer):
    row = Problem("p", privileged={"solution": "yai " * 400})
    with pytest.raises(UserError, match="more than the limit of 300"):
        FromDataset()([row], limited(engine, tokenizer), 0)
    sampler = limited(engine, tokenizer, too_long="skip")
    (group,) = FromDataset()([row], sampler, 0)
    assert (group.rollouts, sampler.counts.skipped) == ((), 1)


def test_a_students_prompt_longer_than_the_samplers_is_not_learned_on(engine, tokenizer):
    """Sampled with a short view, learned under a long prompt: the limit holds for both."""
    long = StudentPrompt(template="{{ problem }}" + " yai" * 400 + " {{ instruction }}")
    sampler = limited(engine, tokenizer, student=long, too_long="skip")
    groups = OnPolicy(view=StudentPrompt())(problems(1), sampler, 0)
    assert len(groups[0].rollouts) == 1
    assert training_examples(groups, loss_terms(Likelihood()), sampler) == []
    assert sampler.counts.skipped == 1
