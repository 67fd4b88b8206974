"""Metrics of graded samples: pure functions of verdicts, scores and answers.

All are shares between 0 and 1. A suite's metric is the mean over its problems.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from opsd.grade.answer import answers_agree

# How many random signs are drawn for all differences, and how many at once.
_SIGNS, _CHUNK = 10_000, 500


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Chance that at least one of `k` samples is right, if `correct` of `n` samples are.

    The unbiased estimator `1 - C(n - correct, k) / C(n, k)` (Chen et al. 2021, arXiv 2107.03374),
    as a product of factors below 1, so that no binomial overflows. It draws without replacement:
    `1 - (1 - correct/n)^k` would be biased.

    >>> pass_at_k(4, 1, 2)
    0.5
    """
    if not 1 <= k <= n:
        raise ValueError(f"pass@{k} needs 1 <= k <= n, but n = {n} samples: draw more, or lower k")
    if not 0 <= correct <= n:
        raise ValueError(f"correct must be between 0 and n = {n}, not {correct}")
    all_wrong = 1.0
    for drawn in range(k):
        all_wrong *= max(n - correct - drawn, 0) / (n - drawn)
    return 1.0 - all_wrong


def avg_at_k(correct: Sequence[bool]) -> float:
    """Share of a problem's samples that are right: avg@k of k samples.

    >>> avg_at_k([True, False, False, True])
    0.5
    """
    if len(correct) == 0:
        raise ValueError("avg@k of no samples: every problem needs at least one")
    return sum(map(bool, correct)) / len(correct)


def maj_at_k(
    answers: Sequence[str | None],
    gold: str,
    same: Callable[[str, str], bool] = answers_agree,
) -> float:
    r"""1 if the answer that most samples give is right, else 0.

    Answers vote together if `same(answer, first answer of the class)` is true: `1/2` with
    `\frac{1}{2}`. None, a sample without an answer, votes for nothing. Of classes with equally many
    votes, the class with the earliest first answer wins.

    >>> maj_at_k(["1/2", "3", r"\frac{1}{2}", None], "0.5")
    1.0
    """
    first = majority(answers, same)
    return 0.0 if first is None else float(same(str(answers[first]), gold))


def majority(
    answers: Sequence[str | None], same: Callable[[str, str], bool] = answers_agree
) -> int | None:
    """The index of the first of the samples that give the most frequent answer; None if no sample
    answers. Classes and ties as in `maj_at_k`.

    >>> majority([None, "7", "8", "8.0"])
    2
    """
    if len(answers) == 0:
        raise ValueError("a majority of no samples: every problem needs at least one")
    votes: dict[int, int] = {}  # by the first sample of each class
    for number, answer in enumerate(answers):
        if answer is not None:
            alike = (i for i in votes if answer == answers[i] or same(answer, str(answers[i])))
            first = next(alike, number)
            votes[first] = votes.get(first, 0) + 1
    return max(votes, key=votes.__getitem__, default=None)


def format_rate(format_ok: Sequence[bool]) -> float:
    """Share of samples that state an answer at all.

    >>> format_rate([True, True, False, True])
    0.75
    """
    if len(format_ok) == 0:
        raise ValueError("format rate of no samples")
    return sum(map(bool, format_ok)) / len(format_ok)


def accuracy_given_format(correct: Sequence[bool], format_ok: Sequence[bool]) -> float | None:
    """Share of right samples among those that state an answer; None if none does.

    >>> accuracy_given_format([True, False, False], [True, True, False])
    0.5
    """
    if len(correct) != len(format_ok):
        raise ValueError(f"{len(correct)} verdicts but {len(format_ok)} format flags")
    stated = [bool(right) for right, ok in zip(correct, format_ok, strict=True) if ok]
    return sum(stated) / len(stated) if stated else None


def permutation_test(groups: Sequence[Sequence[float]], seed: int = 0) -> float:
    """Two-sided p-value of the hypothesis that the mean of the groups' mean differences is chance.

    Under that hypothesis each problem's difference might as well have the other sign (Fisher's
    randomisation test; exact for few problems, 10,000 random signs for many). `groups` contains a
    difference per problem, in one group per language; all groups have equal weights.

    >>> permutation_test([[0.5] * 8]), permutation_test([[0.5, -0.5]])
    (0.0078125, 1.0)
    """
    if not groups or not all(len(group) for group in groups):
        raise ValueError("a test needs at least one group, and a difference in each")
    shares = np.concatenate([np.asarray(g, dtype=np.float64) / len(g) for g in groups])
    shares = shares[shares != 0]  # the sign of 0 does not matter
    # Not scipy.stats.permutation_test, which takes ten times as long.
    if 2**shares.size <= _SIGNS:
        signs = 1 - 2 * (np.arange(2**shares.size)[:, None] >> np.arange(shares.size) & 1)
        drawn, own = signs @ shares, 0
    else:
        generator, own = np.random.default_rng(seed), 1  # the observed signs count as one draw
        drawn = np.concatenate(
            [
                (1.0 - 2.0 * generator.integers(0, 2, (_CHUNK, shares.size))) @ shares
                for _ in range(_SIGNS // _CHUNK)
            ]
        )
    # Sums of the same numbers in another order differ in their last digits.
    seen = abs(shares.sum()) - 1e-9 * np.abs(shares).sum()
    return float((np.count_nonzero(np.abs(drawn) >= seen) + own) / (drawn.size + own))


def false_discovery(p_values: Sequence[float]) -> list[float]:
    """p-values of several comparisons, adjusted so that, of those at or below a level, at most that
    share is expected to be chance (Benjamini and Hochberg 1995; valid if comparisons share
    problems).

    >>> false_discovery([0.01, 0.04, 0.5])
    [0.03, 0.06, 0.5]
    """
    from scipy import stats

    return [float(p) for p in stats.false_discovery_control(p_values)] if len(p_values) else []


def mean(values: Iterable[float]) -> float:
    """The mean of some numbers, at least one.

    >>> mean([0, 1])
    0.5
    """
    known = list(values)
    return sum(known) / len(known)


def mean_of_known(values: Iterable[float | None]) -> float | None:
    """The mean of the values that are not None; None if there are none.

    >>> mean_of_known([1, None, 0]), mean_of_known([None])
    (0.5, None)
    """
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
