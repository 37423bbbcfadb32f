from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from kdeploy.bench.early_stopping import bound, discarded, smallest_count


@given(count=st.integers(1, 5000), quantile=st.sampled_from([0.5, 0.9, 0.99]))
def test_as_many_are_discarded_as_the_binomial_allows(count, quantile):
    over = binom.ppf(0.01, count, 1 - quantile)
    # The largest t with P(X <= t) <= 0.01; ppf is the smallest with P(X <= t) >= 0.01.
    expected = int(over) if binom.cdf(over, count, 1 - quantile) <= 0.01 else int(over) - 1
    assert discarded(count, quantile) == (expected if expected >= 0 else None)


@pytest.mark.parametrize(("count", "expected"), [(458, None), (459, 0), (661, 0), (662, 1)])
def test_mlperfs_counts_for_a_p99(count, expected):
    assert discarded(count, 0.99) == expected


def test_the_smallest_count_is_the_first_with_a_bound():
    for quantile in (0.5, 0.9, 0.99):
        count = smallest_count(quantile)
        assert discarded(count, quantile) == 0
        assert discarded(count - 1, quantile) is None


def test_the_bound_is_the_largest_sample_that_is_left():
    samples = np.random.default_rng(0).permutation(np.arange(1.0, 663.0))
    assert bound(samples, 0.99) == 661.0
    assert bound(samples[:459], 0.99) == samples[:459].max()
    assert bound(samples[:458], 0.99) is None


def test_the_bound_holds_as_often_as_it_says():
    rng = np.random.default_rng(0)
    truth = -np.log(0.01)
    bounds = [bound(rng.exponential(size=700), 0.99) for _ in range(1000)]
    assert np.mean(np.array(bounds) >= truth) >= 0.98
