"""Axes: equal factors on one that is logarithmic, room around what is drawn, round ticks."""

from __future__ import annotations

import pytest

from kdeploy.report.axes import linear_axis, log_axis


def test_equal_factors_are_equal_distances_on_a_logarithmic_axis():
    axis = log_axis([1.0, 100.0])
    assert axis.at(10.0) == pytest.approx(50.0)
    assert axis.at(100.0) - axis.at(10.0) == pytest.approx(axis.at(10.0) - axis.at(1.0), abs=0.01)
    assert axis.high / axis.low > 100


def test_a_logarithmic_axis_reaches_a_factor_of_three_at_least():
    axis = log_axis([7.0, 7.1])
    assert axis.high / axis.low == pytest.approx(3.0)


def test_a_linear_axis_reaches_as_far_as_is_asked_for():
    axis = linear_axis([14.0, 14.1], least=2.0, margin=0.01)
    assert axis.high - axis.low == pytest.approx(2.0)
    assert axis.at(axis.low) == 0
    assert axis.at(axis.high) == 100


def test_a_linear_axis_leaves_room_around_values_that_are_far_apart():
    axis = linear_axis([10.0, 20.0], least=2.0, margin=0.01)
    assert (axis.low, axis.high) == pytest.approx((8.8, 21.2))


@pytest.mark.parametrize("ends", [(1e-6, 3e-2), (14.0, 14.2), (3.0, 9e4)])
def test_ticks_are_round_and_few(ends):
    for axis in (log_axis(ends), linear_axis(ends, least=1e-3, margin=1e-4)):
        ticks = axis.ticks(lambda value: f"{value:g}")
        assert 2 <= len(ticks) <= 12
        assert all(0 <= tick.at <= 100 for tick in ticks)
        assert all(len(tick.text.replace(".", "").replace("-", "")) <= 6 for tick in ticks)
