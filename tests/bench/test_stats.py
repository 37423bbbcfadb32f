from __future__ import annotations

import numpy as np
import pytest
from scipy import stats as scipy_stats

from kdeploy.bench import stats
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
    # Eight rounds are few, so the bootstrap is a little narrow.
    assert 0.85 <= covered / 100 <= 0.99


def test_the_mean_has_scipys_bootstrap_interval():
    rounds = _rounds(1)
    reference = scipy_stats.bootstrap(
        ([r.mean() for r in rounds],), np.mean, method="percentile", rng=0
    ).confidence_interval
    found = stats.mean(rounds)
    assert found.value == pytest.approx(np.concatenate(rounds).mean())
    assert (found.low, found.high) == pytest.approx((reference.low, reference.high), rel=0.01)


def test_throughput_is_all_items_over_all_seconds():
    found = stats.ratio_of_sums(np.array([100, 300]), np.array([1.0, 2.0]))
    assert found.value == pytest.approx(400 / 3)
    assert (found.low, found.high) == pytest.approx((100, 150))


def test_a_file_against_itself_differs_in_no_more_than_a_few_of_a_hundred_runs():
    verdicts = []
    for seed in range(100):
        # A drift that both sides share, larger than the difference that is asked about.
        drift = np.random.default_rng(seed).lognormal(0, 0.2, 8)
        one, other = (
            [np.median(r) * d for r, d in zip(_same(seed, s), drift, strict=True)] for s in (1, 2)
        )
        verdicts.append(stats.verdict(stats.paired_ratio(one, other)))
    assert verdicts.count("no difference") >= 97


def test_a_file_that_is_ten_percent_faster_is_found_through_the_drift():
    verdicts = []
    for seed in range(100):
        drift = np.random.default_rng(seed).lognormal(0, 0.2, 8)
        one, other = (
            [np.median(r) * d for r, d in zip(_same(seed, s), drift, strict=True)] for s in (1, 2)
        )
        faster = [0.9 * seconds for seconds in other]
        verdicts.append(stats.verdict(stats.paired_ratio(one, faster)))
    assert verdicts.count("faster") >= 97


def _same(seed, side):
    rng = np.random.default_rng([seed, side])
    return [rng.lognormal(0, 0.1, 200) * rng.lognormal(0, 0.01) for _ in range(8)]


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
