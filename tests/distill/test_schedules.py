"""Schedules: what they say at each part of a training, and what they refuse."""

from __future__ import annotations

import pytest

from kdeploy.distill.schedules import schedule_of
from kdeploy.errors import RecipeError, UnknownName


def values(given, moments):
    schedule = schedule_of(given, where="weight")
    return [round(schedule.at(moment), 6) for moment in moments]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (0.5, [0.5, 0.5, 0.5, 0.5]),
        ({"linear": {"start": 1.0, "end": 0.0}}, [1.0, 0.75, 0.5, 0.0]),
        ({"linear": {"start": 0, "end": 4, "since": 0.25, "until": 0.75}}, [0.0, 0.0, 2.0, 4.0]),
        ({"cosine": {"start": 1.0, "end": 0.0}}, [1.0, 0.853553, 0.5, 0.0]),
        ({"warm_up": {"value": 2.0, "until": 0.5}}, [0.0, 1.0, 2.0, 2.0]),
        ({"step": {"sequence": [3, 2, 1], "at_progress": [0.25, 0.9]}}, [3.0, 2.0, 2.0, 1.0]),
        ({"adaptive": {"start": 0.9}}, [0.9, 0.9, 0.9, 0.9]),
    ],
)
def test_says_what_it_promises(given, expected):
    assert values(given, [0.0, 0.25, 0.5, 1.0]) == expected


def test_its_bounds_hold_everything_between():
    for given in ({"linear": {"start": 0.9, "end": 0.1}}, {"warm_up": {"value": 1.0}}):
        schedule = schedule_of(given, where="weight")
        low, high = min(schedule.values()) - 1e-9, max(schedule.values()) + 1e-9
        assert all(low <= schedule.at(step / 20) <= high for step in range(21))


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ("much", RecipeError, "weight: input should be a valid number"),
        (float("nan"), RecipeError, "weight: input should be a finite number"),
        ({"linaer": {}}, UnknownName, "no schedule `linaer` in weight"),
        ({"linear": {"start": 1, "stop": 0}}, UnknownName, "no key `stop` in weight.linear"),
        ({"linear": {"start": 1}}, RecipeError, "weight.linear.end: field required"),
        ({"linear": 1}, RecipeError, "weight.linear: expected keys"),
        ({"linear": {"start": 1, "end": 0, "since": 0.5, "until": 0.5}}, RecipeError, "not before"),
        ({"step": {"sequence": [1, 2], "at_progress": [0.1, 0.2]}}, RecipeError, "one value more"),
        ({"step": {"sequence": [1, 2, 3], "at_progress": [0.2, 0.1]}}, RecipeError, "has to rise"),
        ({"linear": {"start": 1, "end": 0}, "cosine": {}}, RecipeError, "one schedule"),
    ],
)
def test_refuses_what_has_no_sense(given, error, message):
    with pytest.raises(error, match=message):
        schedule_of(given, where="weight")
