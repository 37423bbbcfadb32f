from __future__ import annotations

import numpy as np
import pytest

from kdeploy.distill.paired import paired_difference


def outcomes(both, only_one, only_other, neither):
    one = np.repeat([True, True, False, False], [both, only_one, only_other, neither])
    other = np.repeat([True, False, True, False], [both, only_one, only_other, neither])
    return one, other


def test_counts_items_that_only_one_gets_right():
    found = paired_difference(*outcomes(50, 30, 10, 10))
    assert (found.value, found.n) == (0.2, 100)
    assert found.low < 0.2 < found.high
    assert found.is_above
    assert not found.is_below


def test_items_on_which_both_agree_say_nothing_of_who_is_better():
    found = paired_difference(*outcomes(100, 0, 0, 20))
    assert found.value == 0
    assert found.low < 0 < found.high


@pytest.mark.parametrize(("gain", "disagree"), [(0.0, 0.1), (0.05, 0.15), (0.0, 0.02)])
def test_the_interval_holds_the_true_difference_19_times_of_20(gain, disagree):
    generator = np.random.default_rng(0)
    shares = [0.6, (disagree + gain) / 2, (disagree - gain) / 2, 0.4 - disagree]
    inside = 0
    for _ in range(2000):
        found = paired_difference(*outcomes(*generator.multinomial(400, shares)))
        inside += found.low <= gain <= found.high
    assert 0.94 <= inside / 2000 <= 0.99
