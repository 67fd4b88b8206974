"""What claims measure: against plain loops, and against cases whose answer is known."""

from __future__ import annotations

from statistics import fmean

import numpy as np
import pytest

from opsd.experiments.measures import Correlation, Counts, Difference, MeasureTerm, TokensTo, find
from opsd.grade.intervals import linearized

FIELDS = ("problems", "n", "correct", "passed", "tokens", "format_ok", "correct at 9")
SEEDS, PROBLEMS = 3, 40


def counts(rates, tokens=(100.0,), languages=("a",), seed=0, **others) -> Counts:
    """Four samples a problem, right at the given rate after each point."""
    draw = np.random.default_rng(seed)
    arrays = {}
    for code in languages:
        right = np.stack([draw.binomial(4, r, size=(SEEDS, PROBLEMS)) for r in rates], 1)
        made = {
            "problems": np.ones_like(right),
            "n": np.full_like(right, 4),
            "correct": right,
            "passed": right > 0,
            "tokens": 10 * right + 1,
            "format_ok": others.get("format_ok", right),
            "correct at 9": right // 2,
        }
        arrays[code] = np.stack([made[name] for name in FIELDS], -1).astype(float)
    return Counts(FIELDS, arrays, np.tile(np.array(tokens, dtype=float), (SEEDS, 1)))


def test_a_difference_is_that_of_the_means_over_languages():
    one, other = counts([0.3, 0.7], languages=("a", "b")), counts([0.4], seed=1)
    measure = Difference(
        plus=(MeasureTerm(arm="one"), MeasureTerm(arm="other", metric="avg@k at 9")),
        minus=(MeasureTerm(arm="one", point=0),),
    )
    measured = find(measure, {"one": one, "other": other}, 0.1)

    def mean(c: Counts, field: int, point: int) -> float:
        return fmean(
            a[:, point, :, field].sum() / a[:, point, :, 1].sum() for a in c.by_language.values()
        )

    expected = mean(one, 2, -1) + mean(other, 6, -1) - mean(one, 2, 0)
    assert measured.value == pytest.approx(expected)
    assert measured.interval[0] < expected < measured.interval[1]


def test_the_interval_is_that_of_the_paired_differences_over_problems_and_seeds():
    one, other = counts([0.6]), counts([0.4], seed=1)
    measured = find(
        Difference(plus=(MeasureTerm(arm="x"),), minus=(MeasureTerm(arm="y"),)),
        {"x": one, "y": other},
        0,
    )
    a, b = (c.by_language["a"][:, 0, :, 2] / 4 for c in (one, other))
    expected = linearized([a - b], (a - b).mean()).interval
    assert measured.interval == pytest.approx(expected, abs=1e-4)


def test_a_quotient_is_as_sure_as_its_linear_part():
    """Markers per token: the delta method by hand."""
    arm = counts([0.6], languages=("a", "b"))
    measure = Difference(
        plus=(MeasureTerm(arm="x", metric="length"),), minus=(MeasureTerm(arm="none"),)
    )
    none = counts([0.0], languages=("a", "b"))
    measured = find(measure, {"x": arm, "none": none}, 0)
    strata = []
    for code, cells in arm.by_language.items():
        right, n = cells[:, 0, :, 4], cells[:, 0, :, 1]
        mean = right.sum() / n.sum()
        strata.append((right - mean * n) / n.mean() / len(arm.by_language))
        assert code in ("a", "b")
    expected = linearized(strata, measured.value).interval
    assert measured.interval == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("type_", ["tokens_to", "correlation"])
def test_what_is_no_mean_has_the_spread_that_it_has_over_other_draws(type_: str):
    """The width is about that of the measure's values over fresh seeds and problems."""
    measure = {
        "tokens_to": TokensTo(of="fast", over="slow", start="start"),
        "correlation": Correlation(of="slow", x="avg@k", y="pass@k"),
    }[type_]

    def drawn(seed: int) -> dict[str, Counts]:
        rates = {"fast": [0.5, 0.9], "slow": [0.3, 0.5, 0.7], "start": [0.2]}
        spent = {"fast": [100, 200], "slow": [100, 300, 900], "start": [0]}
        return {
            name: counts(rates[name], spent[name], seed=3 * seed + i)
            for i, name in enumerate(rates)
        }

    found = [find(measure, drawn(seed), 0.5) for seed in range(60)]
    truth = fmean(f.value for f in found)
    covered = fmean(f.interval[0] <= truth <= f.interval[1] for f in found)
    assert 0.85 <= covered <= 1
    width = fmean(f.interval[1] - f.interval[0] for f in found)
    assert 0.7 < width / (4 * np.std([f.value for f in found])) < 2


@pytest.mark.parametrize(
    ("rate", "at_least", "verdict"),
    [
        (0.9, 0.1, "reproduced"),
        (0.9, 0.9, "not reproduced"),
        (0.5, 0.05, "not reproduced"),
        (0.5, -0.3, "reproduced"),
        (0.72, 0.2, "inconclusive"),
    ],
)
def test_a_verdict_follows_from_where_the_interval_lies(rate, at_least, verdict):
    arms = {"x": counts([rate]), "y": counts([0.5])}
    found = find(
        Difference(plus=(MeasureTerm(arm="x"),), minus=(MeasureTerm(arm="y"),)), arms, at_least
    )
    low, high = found.interval
    assert found.verdict == verdict, found
    assert (low >= at_least, high < at_least) == {
        "reproduced": (True, False),
        "not reproduced": (False, True),
        "inconclusive": (False, False),
    }[verdict]


def test_tokens_to_an_accuracy_lie_between_two_points():
    def exact(rates, tokens) -> Counts:
        made = counts([0.0] * len(rates), tokens)
        for point, rate in enumerate(rates):
            made.by_language["a"][:, point, :, 2] = 4 * rate
        return made

    arms = {
        "fast": exact([0.5, 1.0], [100, 200]),
        "slow": exact([0.25, 0.75, 0.5], [100, 1000, 2000]),
        "start": exact([0.0], [0]),
        "never": exact([0.5, 0.6], [100, 200]),
    }
    measure = TokensTo(of="fast", over="slow", start="start")
    # Half of the way from 0.5 at 100 to 1 at 200; the slow one is best after 1000.
    assert find(measure, arms, 1.0).value == pytest.approx(1000 / 150)
    assert find(measure.model_copy(update={"of": "never"}), arms, 1.0).value == 0.0
    high = arms | {"start": exact([1.0], [0])}
    assert find(measure, high, 1.0).value == 0.0  # the slow one's best is its start


def test_a_correlation_is_pearsons_per_language_or_of_all_points():
    arm = counts([0.1, 0.5, 0.3, 0.8], [1, 2, 3, 4], languages=("a", "b"))
    measure = Correlation(of="x", x="avg@k", y="pass@k")
    xs, ys = (arm.curves(name)[:, 0] for name in ("avg@k", "pass@k"))
    each = [np.corrcoef(x, y)[0, 1] for x, y in zip(xs, ys, strict=True)]
    assert find(measure, {"x": arm}, 0.5).value == pytest.approx(fmean(each))
    pooled = measure.model_copy(update={"pooled": True})
    expected = np.corrcoef(xs.ravel(), ys.ravel())[0, 1]
    assert find(pooled, {"x": arm}, 0.5).value == pytest.approx(expected)
    flat = counts([0.0, 0.0], [1, 2])
    assert find(measure, {"x": flat}, 0.5).value == 0.0


def test_arms_of_a_claim_share_problems_and_seeds():
    other = counts([0.5])
    fewer = Counts(FIELDS, {"a": other.by_language["a"][:2]}, other.tokens[:2])
    with pytest.raises(ValueError, match="same seeds and problems"):
        find(
            Difference(plus=(MeasureTerm(arm="x"),), minus=(MeasureTerm(arm="y"),)),
            {"x": other, "y": fewer},
            0,
        )
