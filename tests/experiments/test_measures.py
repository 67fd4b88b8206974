"""What claims measure: against plain loops, simulated coverage, and verdicts by where they lie."""

from __future__ import annotations

from statistics import fmean

import numpy as np
import pytest

from opsd.experiments.measures import Counts, Effect, effect, level, verdict
from opsd.grade.intervals import estimate, linearized

FIELDS = ("problems", "n", "correct", "passed", "tokens", "format_ok", "correct at 9")
SEEDS, PROBLEMS = 8, 40


def counts(rate, languages=("a",), seed=0) -> Counts:
    """Four samples a problem, right at the given rate, which may be [seed, problem]."""
    draw = np.random.default_rng(seed)
    arrays = {}
    for code in languages:
        right = draw.binomial(4, np.broadcast_to(rate, np.shape(rate) or (SEEDS, PROBLEMS)))
        made = {
            "problems": np.ones_like(right),
            "n": np.full_like(right, 4),
            "correct": right,
            "passed": right > 0,
            "tokens": 10 * right + 1,
            "format_ok": right,
            "correct at 9": right // 2,
        }
        arrays[code] = np.stack([made[name] for name in FIELDS], -1).astype(float)
    return Counts(FIELDS, arrays)


def test_an_effect_is_a_sum_of_means_over_languages():
    one, other = counts(0.7, languages=("a", "b")), counts(0.4, seed=1)
    measured = effect([(1.0, one, "avg@k"), (1.0, other, "avg@k at 9"), (-1.0, one, "length")])

    def mean(c: Counts, field: int) -> float:
        return fmean(a[..., field].sum() / a[..., 1].sum() for a in c.by_language.values())

    expected = mean(one, 2) + mean(other, 6) - mean(one, 4)
    assert measured.value == pytest.approx(expected)
    assert measured.interval[0] < expected < measured.interval[1]


def test_the_interval_is_that_of_the_paired_differences_over_problems_and_seeds():
    one, other = counts(0.6), counts(0.4, seed=1)
    measured = effect([(1.0, one, "avg@k"), (-1.0, other, "avg@k")])
    a, b = (c.by_language["a"][..., 2] / 4 for c in (one, other))
    assert measured.interval == pytest.approx(linearized([a - b], (a - b).mean()).interval)


def test_a_quotient_is_as_sure_as_its_linear_part():
    """The slope of a quotient to a cell's weight in all languages, by finite differences."""
    arm = counts(0.6, languages=("a", "b"))
    value, influence = arm.quotient("right_given_format")
    for place in ((0, 0), (3, 7)):
        heavier = {code: cells.copy() for code, cells in arm.by_language.items()}
        for cells in heavier.values():
            cells[place] *= 1 + 1e-6
        slope = (Counts(FIELDS, heavier).quotient("right_given_format")[0] - value) / 1e-6
        assert influence[place] / influence.size == pytest.approx(slope, abs=1e-6)


@pytest.mark.parametrize(
    ("between", "languages"),
    [(0.02, ("a",)), (0.05, ("a", "b")), (0.1, ("a",)), (0.2, ("a",)), (0.2, ("a", "b"))],
)
def test_intervals_of_differences_hold_the_truth_as_often_as_they_say(between, languages):
    """Two arms whose seeds differ by `between` (a standard deviation of accuracy), and whose
    problems are hard for one more than for the other, alike in all languages."""
    draw = np.random.default_rng([round(1000 * between), len(languages)])
    held = []
    for i in range(900):
        hard = 0.1 * draw.standard_normal((2, 1, 60))
        chance = 0.5 + between * draw.standard_normal((2, SEEDS, 1)) + hard
        # What is cut off at 0 and 1 stays even about a half, so that the truth is 0.
        one, other = (counts(c.clip(0, 1), languages, 2 * i + j) for j, c in enumerate(chance))
        low, high = effect([(1.0, one, "avg@k"), (-1.0, other, "avg@k")]).interval
        held.append(low <= 0 <= high)
    assert 0.93 <= np.mean(held) <= 0.97


def test_variants_of_one_problem_count_once():
    cells = np.random.default_rng(0).integers(0, 5, (SEEDS, 20))
    one = counts(np.zeros((SEEDS, 20)))
    fields = one.by_language["a"]
    fields[..., 2] = cells
    twice = Counts(FIELDS, {"a": np.repeat(fields, 2, axis=1)})
    grouped = Counts(FIELDS, twice.by_language, tuple(i // 2 for i in range(40)))
    terms = [[(1.0, c, "avg@k")] for c in (one, twice, grouped)]
    alone, narrow, right = (effect(term).interval for term in terms)
    assert right == pytest.approx(alone) and narrow[1] - narrow[0] < 0.9 * (right[1] - right[0])


def test_a_level_stays_on_its_scale_and_nothing_to_measure_is_said():
    for rate in (0.01, 0.98):
        arm = counts(rate)
        low, high = level(arm, "avg@k").interval
        assert 0 <= low < rate < high <= 1
        shares = arm.by_language["a"][..., 2] / 4
        assert (low, high) == pytest.approx(estimate([shares]).interval)
    few = counts(0.01)  # right in few of the samples, formatted in about half of them
    few.by_language["a"][..., 5] = np.random.default_rng(1).integers(1, 4, (SEEDS, PROBLEMS))
    few = Counts(FIELDS, {"a": few.by_language["a"][:2]})
    plain, bounded = effect([(1.0, few, "right_given_format")]), level(few, "right_given_format")
    assert plain.interval[0] < 0 <= bounded.interval[0] < bounded.value < bounded.interval[1] <= 1
    none = effect([(1.0, counts(0.0), "right_given_format")])
    assert none.rounded() == [None, None, None]
    assert verdict(none, 0.0, None) == "not measurable"


def test_arms_of_other_problems_are_not_compared():
    with pytest.raises(ValueError, match="same seeds and problems"):
        effect([(1.0, counts(0.5), "avg@k"), (-1.0, counts(np.full((8, 9), 0.5)), "avg@k")])


ABOVE, BELOW = Effect(0.1, (0.05, 0.15)), Effect(0.1, (-0.01, 0.21))


@pytest.mark.parametrize(
    ("interval", "at_least", "gain", "expected"),
    [
        ((0.02, 0.1), 0.02, ABOVE, "reproduced"),
        ((0.02, 0.1), 0.02, None, "reproduced"),
        ((0.02, 0.1), 0.02, BELOW, "not above base"),
        ((0.01, 0.1), 0.02, ABOVE, "inconclusive"),
        ((0.01, 0.1), 0.02, BELOW, "inconclusive"),
        ((-0.1, 0.019), 0.02, ABOVE, "not reproduced"),
        ((-0.02, 0.1), -0.02, ABOVE, "reproduced"),
        ((-0.02, 0.1), -0.02, BELOW, "not above base"),
        ((0.0, 0.0), 0.0, ABOVE, "inconclusive"),
    ],
)
def test_a_verdict_follows_from_where_intervals_lie(interval, at_least, gain, expected):
    assert verdict(Effect(0.05, interval), at_least, gain) == expected


def test_what_is_to_be_kept_may_be_a_little_below_the_base():
    measured = Effect(0.3, (0.2, 0.4))
    assert verdict(measured, 0.05, BELOW, keeps=0.05) == "reproduced"
    assert verdict(measured, 0.05, Effect(-0.1, (-0.2, 0.0)), keeps=0.05) == "not above base"
