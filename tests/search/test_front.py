import math

import numpy as np
import pytest

from kdeploy.gate import judge, parse_gates
from kdeploy.measurement import Measurement
from kdeploy.search.constraints import violations
from kdeploy.search.front import costs, front_of, hypervolume, ranks


def test_hypervolume_is_the_share_of_random_points_that_are_dominated():
    rng = np.random.default_rng(0)
    points = [tuple(p) for p in rng.uniform(size=(12, 3))]
    samples = rng.uniform(size=(40_000, 3))
    inside = np.zeros(len(samples), bool)
    for point in points:
        inside |= (samples >= point).all(axis=1)
    assert hypervolume(points, (1.0, 1.0, 1.0)) == pytest.approx(inside.mean(), abs=0.01)


def test_points_behind_the_reference_add_nothing():
    assert hypervolume([(2.0, 0.5)], (1.0, 1.0)) == 0.0
    assert hypervolume([(0.5, 0.5), (0.5, 2.0)], (1.0, 1.0)) == pytest.approx(0.25)


def test_ranks_peel_off_one_front_after_the_other():
    points = [(0.0, 1.0), (1.0, 0.0), (1.0, 1.0), (2.0, 2.0)]
    assert ranks(points) == [0, 0, 1, 2]
    assert front_of([*points, (0.0, 1.0)]) == [0, 1]


def test_costs_are_errors_and_logarithms():
    found = costs({"accuracy.top1": 0.9, "latency.p50": 1e-3}, ["accuracy.top1", "latency.p50"])
    assert found == pytest.approx((0.1, -3.0))
    assert costs({"accuracy.top1": math.nan}, ["accuracy.top1"]) is None
    assert costs({}, ["size"]) is None


@pytest.mark.parametrize("value", [0.5, 0.79, 0.8, 0.81, 0.9, 2.0])
@pytest.mark.parametrize(
    "text",
    ["accuracy.top1: >= 0.8", "accuracy.top1: -10pp", "size: <= 0.8", "size: +10%", "size: 1.1x"],
)
def test_a_gate_is_missed_exactly_where_it_does_not_hold(text, value):
    [gate] = parse_gates([text])
    records = [
        Measurement(artifact=a, label=a, metric=gate.metric, value=v)
        for a, v in (("candidate", value), ("teacher", 0.9))
    ]
    [verdict] = judge([gate], records[:1], records[1:])
    found = violations([gate], {gate.metric: value}, {gate.metric: 0.9})[text]
    assert (found <= 1e-12) == verdict.passed


def test_what_was_not_measured_misses():
    gates = parse_gates(["size: <= 1KB", "size: 2x"])
    assert set(violations(gates, {}, {}).values()) == {1.0}
    assert violations(gates, {"size": 10.0}, {})["size: 2x"] == 1.0
