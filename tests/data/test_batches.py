"""The sampler's promises, over many shapes of steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import chain
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opsd.data.batches import ProblemLoader, StepSampler, StepShape, _quotas
from opsd.types import Problem, UserError

SHAPE = {"rollouts", "group", "micro_batches", "reuse", "rank", "world"}


def sampler(**changes: Any) -> StepSampler:
    values = {"size": 24, "rollouts": 4, "micro_batches": 2, "seed": 3, **changes}
    of_shape = {name: values.pop(name) for name in SHAPE & values.keys()}
    return StepSampler(shape=StepShape(**of_shape), **values)


def flat(lists: Iterable[list[int]]) -> list[int]:
    return list(chain.from_iterable(lists))


def steps(sampler: StepSampler) -> list[list[int]]:
    """What a process works on, a list per optimizer step."""
    batches = list(sampler)
    n = sampler.shape.micro_batches
    return [flat(batches[i : i + n]) for i in range(0, len(batches), n)]


shapes = st.fixed_dictionaries(
    {
        "size": st.integers(1, 40),
        "group": st.integers(1, 4),
        "micro_batches": st.sampled_from([1, 2, 4]),
        "reuse": st.integers(1, 3),
        "seed": st.integers(0, 99),
        "epoch": st.integers(0, 5),
        "problems": st.integers(1, 3),
        "world": st.integers(1, 3),
    }
)


def of_shape(shape: dict[str, int], **changes: int) -> StepSampler:
    shape = dict(shape)
    own = shape.pop("problems") * shape["micro_batches"]
    return sampler(rollouts=own * shape["group"], **{**shape, **changes})


@settings(max_examples=80, deadline=None)
@given(shapes)
def test_as_many_equal_micro_batches_come_as_the_length_promises(shape: dict[str, int]):
    made = of_shape(shape)
    batches = list(made)
    assert len(batches) == len(made)
    assert {len(batch) for batch in batches} == {made.shape.rollouts // made.shape.micro_batches}


@settings(max_examples=80, deadline=None)
@given(shapes)
def test_a_group_stays_together_on_one_process(shape: dict[str, int]):
    for rank in range(shape["world"]):
        for rows in steps(of_shape(shape, rank=rank)):
            heads = rows[:: shape["group"]]
            assert rows == [index for index in heads for _ in range(shape["group"])]


@settings(max_examples=80, deadline=None)
@given(shapes)
def test_no_problem_comes_twice_in_an_epoch_unless_the_set_is_smaller_than_a_step(
    shape: dict[str, int],
):
    ranks = [of_shape(shape, rank=rank) for rank in range(shape["world"])]
    seen = Counter(
        index
        for rank in ranks
        for rows in steps(rank)[:: shape["reuse"]]
        for index in rows[:: shape["group"]]
    )
    per_step = ranks[0].shape.problems_per_step
    if shape["size"] >= per_step:
        assert set(seen.values()) == {1}
        assert len(seen) == shape["size"] // per_step * per_step
    else:
        assert sum(seen.values()) == per_step
        assert max(seen.values()) - min(seen[i] for i in range(shape["size"])) <= 1


@settings(max_examples=80, deadline=None)
@given(shapes)
def test_the_processes_together_do_what_one_process_does(shape: dict[str, int]):
    ranks = [steps(of_shape(shape, rank=rank)) for rank in range(shape["world"])]
    alone = of_shape({**shape, "problems": shape["problems"] * shape["world"], "world": 1})
    assert [flat(parts) for parts in zip(*ranks, strict=True)] == steps(alone)


def test_an_epoch_takes_every_problem_once():
    assert sorted(flat(sampler())) == list(range(24))


def test_reuse_repeats_each_step_as_a_whole():
    once, thrice = steps(sampler()), steps(sampler(reuse=3))
    assert thrice == [rows for rows in once for _ in range(3)]


def test_a_set_smaller_than_a_step_is_cycled():
    (rows,) = steps(sampler(size=3, rollouts=8))
    assert rows[:3] == rows[3:6] and rows[6:] == rows[:2]
    assert sorted(rows[:3]) == [0, 1, 2]


def test_epochs_are_shuffled_anew_and_repeat_by_seed():
    made = sampler()
    first = list(made)
    assert list(made) == first
    made.set_epoch(1)
    second = list(made)
    assert second != first and sorted(flat(second)) == sorted(flat(first))
    assert list(sampler(epoch=1)) == second
    assert list(sampler(seed=4)) != first


def test_weights_give_every_language_its_share():
    labels = ["swa"] * 20 + ["yor"] * 4
    made = sampler(labels=labels, weights={"swa": 1, "yor": 2})
    for epoch in range(3):
        made.set_epoch(epoch)
        drawn = Counter(labels[index] for index in flat(made))
        assert drawn == {"swa": 8, "yor": 16}
        seen = Counter(index for index in flat(made) if labels[index] == "yor")
        assert set(seen.values()) == {4}  # no problem comes again before all have come
    assert list(made) == list(sampler(labels=labels, weights={"swa": 2, "yor": 4}, epoch=2))


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 200), st.lists(st.floats(0.01, 100), min_size=1, max_size=5))
def test_quotas_fill_the_epoch_and_are_off_by_less_than_one(size: int, weights: list[float]):
    named = {str(i): weight for i, weight in enumerate(weights)}
    quotas = _quotas(size, named)
    assert quotas.total() == size
    total = sum(weights)
    assert all(abs(quotas[n] - size * w / total) < 1 + 1e-6 for n, w in named.items())


def test_a_weight_without_problems_is_refused():
    with pytest.raises(UserError, match="there is no problem in yor"):
        list(sampler(labels=["swa"] * 24, weights={"swa": 1, "yor": 1}))
    with pytest.raises(UserError, match="language weights: no weight for yor"):
        sampler(labels=["swa", "yor"] * 12, weights={"swa": 1})


def test_the_loader_hands_out_problems_in_the_samplers_order():
    problems = [Problem(str(i)) for i in range(24)]
    made = sampler(group=2)
    loader = ProblemLoader(problems, made)
    for epoch in (0, 1):
        loader.set_epoch(epoch)
        assert [[int(p.text) for p in batch] for batch in loader] == list(
            sampler(group=2, epoch=epoch)
        )


@pytest.mark.parametrize(
    ("rollouts", "group", "nearest"), [(6, 4, 8), (9, 8, 8), (3, 8, 8), (13, 4, 12), (32, 5, 30)]
)
def test_a_step_that_groups_do_not_fill_names_the_nearest_that_they_do(
    rollouts: int, group: int, nearest: int
):
    with pytest.raises(UserError) as error:
        sampler(rollouts=rollouts, group=group, micro_batches=1)
    assert str(error.value).endswith(
        f"set rollouts_per_step to {nearest}, or per_device_train_batch_size x"
        f" gradient_accumulation_steps to {nearest}"
    )
    sampler(rollouts=nearest, group=group, micro_batches=1)


def test_a_step_that_groups_do_not_fill_is_named_over_all_processes():
    told = r"20 rollouts per process .* set rollouts_per_step to 32, or .* to 16"
    with pytest.raises(UserError, match=told):
        StepShape(rollouts=20, group=8, micro_batches=5, world=2)


def test_an_empty_set_is_refused():
    with pytest.raises(UserError, match="the training set is empty"):
        sampler(size=0)
