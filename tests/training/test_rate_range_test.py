from __future__ import annotations

import itertools
import math

import pytest

from kdeploy.training.rate_range_test import (
    LEAST_FACTOR,
    MOST_FACTOR,
    found_rate,
    rate_of_lowest,
    rising_rates,
    smoothed,
    steps_of_test,
)


def bowl(best):
    """Return losses of a step that fall up to a rate and rise steeply above it."""
    made = []

    def step(number, rate):
        made.append((number, rate))
        distance = math.log(rate / best)
        return 2.0 + 0.1 * distance**2 if distance < 0 else 2.0 + 5 * distance**2

    return step, made


def test_a_long_training_spares_a_hundred_steps_and_a_short_one_none():
    assert [steps_of_test(n) for n in (100, 399, 400, 1000, 10**6)] == [0, 0, 16, 40, 100]


def test_too_few_steps_leave_the_usual_rate():
    step, made = bowl(1e-3)
    assert found_rate(0.01, 100, step).to_dict() == {"rate": 0.01, "steps": 0, "lowest_at": None}
    assert not made


def test_rates_rise_by_one_factor():
    rates = rising_rates(0.01, 5)
    factors = [b / a for a, b in itertools.pairwise(rates)]
    assert factors == pytest.approx([factors[0]] * 4)
    assert (rates[0], rates[-1]) == (pytest.approx(1e-4), pytest.approx(0.3))


@pytest.mark.parametrize(("best", "expected"), [(0.06, 0.01), (0.03, 0.005)])
def test_the_rate_lies_below_that_of_the_lowest_loss(best, expected):
    step, _ = bowl(best)
    found = found_rate(0.01, 10_000, step)
    assert found.rate == pytest.approx(expected, rel=0.6)
    assert found.lowest_at == pytest.approx(best, rel=0.6)


@pytest.mark.parametrize(("best", "factor"), [(2e-4, LEAST_FACTOR), (0.3, MOST_FACTOR)])
def test_the_usual_rate_is_moved_by_a_bounded_factor(best, factor):
    step, _ = bowl(best)
    assert 0.01 * factor / found_rate(0.01, 10_000, step).rate == pytest.approx(1, abs=0.25)


def test_it_ends_where_the_loss_rises_or_is_no_number():
    step, made = bowl(0.01)
    found = found_rate(0.01, 10_000, step)
    assert found.steps == len(made) < 90
    found = found_rate(0.01, 10_000, lambda number, rate: math.nan if number == 50 else 1 / rate)
    assert found.steps == 51
    assert math.isfinite(found.rate)


def test_a_loss_that_is_no_number_from_the_start_gives_the_lowest_rate():
    assert rate_of_lowest([1e-4, 1e-3], [math.nan, math.inf]) == 1e-4


def test_the_first_smoothed_loss_is_the_first():
    assert smoothed([3.0]) == [pytest.approx(3.0)]
    assert smoothed([3.0, 1.0, 1.0])[-1] == pytest.approx((0.3 * 0.49 * 3 + 0.3 * 1.7) / 0.657)
