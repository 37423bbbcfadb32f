"""Quantities are read into stored units and shown as people read them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdeploy.errors import InputError, RecipeError
from kdeploy.units import (
    UNITS,
    format_quantity,
    format_seconds,
    parse_bound,
    parse_extents,
    parse_quantity,
)


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [
        ("2ms", 0.002, "s"),
        (" 100 KB ", 100_000, "B"),
        ("1.5MiB", 1.5 * 2**20, "B"),
        ("0.9", 0.9, ""),
        ("90%", 0.9, "fraction"),
        ("-1.0pp", -0.01, "fraction"),
        ("1e3", 1000, ""),
        ("12 M", 12e6, "count"),
        ("5mb", 5e6, "B"),
        ("3 uJ", 3e-6, "J"),
    ],
)
def test_reads_numbers_with_units(text, value, unit):
    assert parse_quantity(text) == (pytest.approx(value), unit)


@pytest.mark.parametrize("text", ["", "ms", "2 parsecs", "1.2.3s", "two ms", "2ms 3ms"])
def test_refuses_what_is_no_quantity(text):
    with pytest.raises(InputError, match="is not a quantity") as caught:
        parse_quantity(text)
    assert "write a number and a unit" in caught.value.hint


@given(st.floats(-1e9, 1e9), st.sampled_from(sorted(UNITS)))
def test_a_number_with_any_unit_is_its_value_times_the_factor(number, unit):
    value, stored = parse_quantity(f"{number}{unit}")
    assert (value, stored) == (number * UNITS[unit][1], UNITS[unit][0])


@given(
    st.floats(1e-7, 119),
    st.sampled_from(["s", "B", "J", "count"]),
)
def test_what_is_shown_reads_back_within_half_a_percent(value, unit):
    value = value if unit in ("s", "J") else value * 1e7 + 1
    read, stored = parse_quantity(format_quantity(value, unit))
    absolute = {"s": 1e-9, "J": 1e-8, "B": 0.01, "count": 0.01}[unit]
    assert read == pytest.approx(value, rel=0.0051, abs=absolute)
    assert stored in (unit, "")


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (None, "s", "-"),
        (0.000_023_1, "s", "23.1 µs"),
        (0.0042, "s", "4.20 ms"),
        (0.0, "s", "0 ns"),
        (1536, "B", "1.50 KiB"),
        (0.98765, "fraction", "98.77 %"),
        (1_080_000, "count", "1.08 M"),
        (12, "count", "12"),
        (0.0021, "J/item", "2.10 mJ/item"),
        (0.125, "std", "0.125 std"),
        (1234.5, "items/s", "1234 items/s"),
        (0.5, "", "0.5"),
    ],
)
def test_shows_three_digits_and_the_unit_people_use(value, unit, shown):
    assert format_quantity(value, unit) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(3.1, "3.10 s"), (119, "119 s"), (252, "4 min 12 s"), (7500, "2 h 05 min")],
)
def test_long_durations_are_shown_in_minutes_and_hours(seconds, shown):
    assert format_seconds(seconds) == shown


def test_a_bound_is_a_positive_quantity_of_its_unit():
    assert parse_bound("15ms", "s", where="here") == pytest.approx(0.015)
    assert parse_bound("1KiB", "B", where="here") == 1024
    for text in ("15MB", "0s", "-1ms"):
        with pytest.raises(RecipeError, match="here"):
            parse_bound(text, "s", where="here")


def test_extents_are_one_number_or_several():
    assert parse_extents("128", where="here") == (128,)
    assert parse_extents("160x96", where="here") == (160, 96)
    for text in ("", "0", "12x", "x", "-3", "1.5"):
        with pytest.raises(RecipeError, match="is not a size"):
            parse_extents(text, where="here")


def test_what_is_no_finite_number_is_shown_as_it_is():
    assert format_quantity(float("inf"), "s") == "inf s"
    assert format_quantity(float("nan"), "s") == "nan s"
    assert "inf" in format_quantity(float("inf"), "B")
