"""Metrics against enumeration, closed forms and their own symmetries."""

import math
from fractions import Fraction
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opsd.grade.metrics import (
    accuracy_given_format,
    avg_at_k,
    false_discovery,
    format_rate,
    maj_at_k,
    majority,
    pass_at_k,
    permutation_test,
)

MANY_N = 12_000


@pytest.mark.parametrize("n", range(1, 8))
def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample(n: int):
    for correct in range(n + 1):
        samples = [True] * correct + [False] * (n - correct)
        for k in range(1, n + 1):
            subsets = list(combinations(samples, k))
            assert pass_at_k(n, correct, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


@settings(deadline=None)
@given(
    st.integers(1, 400).flatmap(
        lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))
    )
)
def test_pass_at_k_is_the_binomial_formula(case: tuple[int, int, int]):
    n, correct, k = case
    exact = 1 - Fraction(math.comb(n - correct, k), math.comb(n, k))
    assert pass_at_k(n, correct, k) == pytest.approx(float(exact), abs=1e-12)


def test_pass_at_k_does_not_overflow():
    assert 0.0 < pass_at_k(MANY_N, 1, MANY_N // 2) == pytest.approx(0.5)
    assert pass_at_k(MANY_N, MANY_N, 1) == 1.0
    assert pass_at_k(MANY_N, 0, MANY_N) == 0.0


@pytest.mark.parametrize(
    ("n", "correct", "k"), [(3, 1, 4), (3, 1, 0), (0, 0, 1), (3, 4, 1), (3, -1, 1)]
)
def test_pass_at_k_refuses_impossible_counts(n: int, correct: int, k: int):
    with pytest.raises(ValueError):
        pass_at_k(n, correct, k)


@settings(deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=30))
def test_avg_at_k_is_pass_at_1(correct: list[bool]):
    assert avg_at_k(correct) == pytest.approx(pass_at_k(len(correct), sum(correct), 1))
    assert avg_at_k(np.array(correct)) == avg_at_k(correct)  # type: ignore[arg-type]


def test_equal_values_vote_together():
    answers = ["0.5", r"\frac{1}{2}", "1/2", "3", "3", None]
    assert maj_at_k(answers, "0.5") == 1.0
    assert maj_at_k(answers, "3") == 0.0
    assert maj_at_k(answers, "3", same=str.__eq__) == 1.0


def test_no_answer_is_no_vote():
    assert maj_at_k([None, None, None, "4"], "4") == 1.0
    assert maj_at_k([None, None], "4") == 0.0


@pytest.mark.parametrize(
    ("answers", "winner"), [("ab", "a"), ("ba", "b"), ("abba", "a"), ("abb", "b"), ("cabab", "a")]
)
def test_a_tie_goes_to_the_answer_seen_first(answers: str, winner: str):
    for gold in "abc":
        assert maj_at_k(list(answers), gold) == float(gold == winner)


def test_rates():
    assert format_rate([True, False]) == 0.5
    assert accuracy_given_format([True, False, False], [True, True, False]) == 0.5
    assert accuracy_given_format([False], [False]) is None
    with pytest.raises(ValueError, match="2 verdicts but 1"):
        accuracy_given_format([True, True], [True])


@pytest.mark.parametrize("metric", [avg_at_k, format_rate, lambda _: maj_at_k([], "1")])
def test_nothing_has_no_average(metric):
    with pytest.raises(ValueError):
        metric([])


@settings(deadline=None)
@given(st.lists(st.integers(-100, 100).map(lambda x: x / 100), min_size=1, max_size=9))
def test_a_permutation_test_is_exact_for_few_problems(differences):
    """Against the enumeration of all signs."""
    total = abs(sum(differences))
    signs = list(product((1, -1), repeat=len(differences)))
    sums = [sum(s * d for s, d in zip(sign, differences, strict=True)) for sign in signs]
    upper = sum(s >= sum(differences) - 1e-9 for s in sums) / len(signs)
    lower = sum(s <= sum(differences) + 1e-9 for s in sums) / len(signs)
    expected = min(1.0, 2 * min(upper, lower))
    assert permutation_test([differences]) == pytest.approx(expected), total


def test_groups_count_alike_in_a_permutation_test():
    one = [[0.5] * 4, [-0.5] * 2]
    assert permutation_test(one) == 1.0  # the means of the groups cancel, their sums do not
    assert permutation_test([[0.1] * 20, [0.2] * 30]) < 0.001
    assert permutation_test([[0.1] * 20]) == permutation_test([[-0.1] * 20])


def test_p_values_are_adjusted_as_benjamini_and_hochberg_say():
    values = [0.041, 0.008, 0.039, 0.001]
    # In order: 0.001 x 4/1, 0.008 x 4/2, then min(0.039 x 4/3, 0.041 x 4/4) twice.
    assert false_discovery(values) == pytest.approx([0.041, 0.016, 0.041, 0.004])
    assert false_discovery([]) == [] and false_discovery([0.2]) == [0.2]


def test_the_majority_is_the_first_sample_of_its_class():
    assert majority(["3", "7", None, "7.0", "3", "7"]) == 1
    assert majority(["3", "7", "7", "3"]) == 0
    assert majority([None, None]) is None
    with pytest.raises(ValueError, match="no samples"):
        majority([])
