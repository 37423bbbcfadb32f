from __future__ import annotations

import numpy as np
import pytest
from scipy import stats as scipy_stats

from kdeploy.bench import stats
from kdeploy.bench.rounds import turns
from kdeploy.bench.stats import Estimate


def _rounds(seed, *, count=8, size=300):
    """Lognormal times around 1 ms, with a level of its own for each round."""
    rng = np.random.default_rng(seed)
    levels = rng.lognormal(0, 0.05, count)
    return [1e-3 * level * rng.lognormal(0, 0.1, size) for level in levels]


def test_percentiles_are_those_of_all_samples():
    rounds = _rounds(0)
    wanted = (50, 90, 99)
    found = [e.value for e in stats.percentiles(rounds, wanted)]
    np.testing.assert_allclose(found, np.percentile(np.concatenate(rounds), wanted))


def test_an_interval_holds_the_true_median_about_95_times_in_a_hundred():
    covered = 0
    for seed in range(100):
        (estimate,) = stats.percentiles(_rounds(seed, size=60), [50])
        covered += estimate.low <= 1e-3 <= estimate.high
    assert 0.92 <= covered / 100 <= 0.99


@pytest.mark.parametrize("count", [8, 20, 40])
def test_the_mean_has_scipys_bootstrap_interval_as_wide_as_students_t(count):
    rounds = _rounds(1, count=count)
    student = scipy_stats.t.ppf(0.975, count - 1) * np.sqrt(count / (count - 1))
    reference = scipy_stats.bootstrap(
        ([r.mean() for r in rounds],),
        np.mean,
        method="percentile",
        confidence_level=1 - 2 * scipy_stats.norm.cdf(-student),
        rng=0,
    ).confidence_interval
    found = stats.mean(rounds)
    assert found.value == pytest.approx(np.concatenate(rounds).mean())
    assert (found.low, found.high) == pytest.approx((reference.low, reference.high), rel=0.01)


def test_throughput_is_all_items_over_all_seconds():
    found = stats.ratio_of_sums(np.array([100, 300]), np.array([1.0, 2.0]))
    assert found.value == pytest.approx(400 / 3)
    assert (found.low, found.high) == pytest.approx((100, 150))


@pytest.mark.parametrize("count", [6, 8, 13])
def test_a_paired_ratio_has_the_interval_of_wilcoxons_test(count):
    logs = np.random.default_rng(count).normal(0.1, 0.05, count)
    found = stats.paired_ratio(np.exp(logs), np.ones(count))
    averages = [(x + y) / 2 for i, x in enumerate(logs) for y in logs[i:]]
    assert found.value == pytest.approx(np.exp(np.median(averages)))
    # The interval's ends are where the test turns from accepting a shift to refusing it.
    for end, inwards in ((np.log(found.low), 1e-6), (np.log(found.high), -1e-6)):
        inside, outside = (
            scipy_stats.wilcoxon(logs - end - step, method="exact").pvalue
            for step in (inwards, -inwards)
        )
        assert outside <= 0.05 < inside


def test_too_few_rounds_give_the_whole_range():
    found = stats.paired_ratio([2.0, 3.0, 4.0], [1.0, 1.0, 1.0])
    assert (found.low, found.high) == pytest.approx((2.0, 4.0))


def test_simulated_comparisons_have_honest_intervals_and_verdicts():
    # (rounds, times as slow) of quick and of standard effort
    same, slower = _compared(8, 1.0), _compared(40, 1.05)
    assert np.mean([e.low <= 1 <= e.high for e in same]) >= 0.93
    assert np.mean([stats.verdict(e) != "no difference" for e in same]) <= 0.05
    assert np.mean([e.low <= 1 / 1.05 <= e.high for e in slower]) >= 0.93
    assert np.mean([stats.verdict(e) == "slower" for e in slower]) >= 0.90


def _compared(rounds, times_slower, *, repeats=200):
    """Compare in turns on a machine that drifts, is noisy and is disturbed in one turn of ten."""
    rng = np.random.default_rng(rounds)
    found = []
    for _ in range(repeats):
        drift = np.cumsum(rng.normal(0, 0.01, 2 * rounds))
        disturbed = (rng.random(2 * rounds) < 0.1) * rng.exponential(0.2, 2 * rounds)
        logs = drift + disturbed + rng.normal(0, 0.01, 2 * rounds)
        sides = np.array([logs[2 * n : 2 * n + 2][turns(2, n)] for n in range(rounds)])
        seconds = np.exp(sides) * [1.0, times_slower]
        found.append(stats.paired_ratio(seconds[:, 0], seconds[:, 1]))
    return found


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (1.04, 1.2, "faster"),
        (1.02, 1.2, "no difference"),
        (0.8, 0.96, "slower"),
        (0.8, 0.98, "no difference"),
        (0.9, 1.1, "no difference"),
    ],
)
def test_a_verdict_needs_the_whole_interval_beyond_three_percent(low, high, expected):
    assert stats.verdict(Estimate(value=(low + high) / 2, low=low, high=high)) == expected


@pytest.mark.parametrize(("hits", "count"), [(0, 20), (13, 20), (360, 360), (941, 1000)])
def test_fractions_have_wilsons_interval(hits, count):
    reference = scipy_stats.binomtest(hits, count).proportion_ci(method="wilson")
    found = stats.fraction(hits / count, count)
    assert (found.low, found.high) == pytest.approx((reference.low, reference.high), abs=1e-6)


def test_z_scores_are_robust_and_defined_where_nothing_varies():
    samples = np.array([1.0, 1.1, 0.9, 1.05, 0.95, 50.0])
    deviation = scipy_stats.median_abs_deviation(samples, scale="normal")
    expected = (samples - np.median(samples)) / deviation
    np.testing.assert_allclose(stats.modified_z_scores(samples), expected, rtol=1e-4)
    np.testing.assert_array_equal(stats.modified_z_scores(np.ones(3)), np.zeros(3))


def test_quartile_spread_is_relative_to_the_median():
    samples = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    assert stats.quartile_spread(samples) == pytest.approx(2 / 3)
