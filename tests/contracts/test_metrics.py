"""What every metric is: a number with the unit and direction of the table of metrics."""

from __future__ import annotations

import numpy as np
import pytest

from kdeploy.errors import DataError
from kdeploy.measurement import METRICS
from kdeploy.metrics.contract import CLASSES

KINDS = ("metric",)
EXPECTED = np.arange(60) % 4


def judges_classes(technique):
    facts = technique.facts
    return "needs" not in facts and facts.get("tasks", CLASSES) == CLASSES


def judges_likelihoods(technique):
    return technique.facts.get("needs") == "log_likelihoods"


def judges_divergences(technique):
    return technique.facts.get("needs") == "divergences"


def test_has_the_unit_and_direction_of_its_name(technique):
    known = METRICS[technique.facts["name"]]
    assert (technique.facts["unit"], technique.facts["better"]) == (known.unit, known.better)


@pytest.mark.only(when=judges_classes)
def test_is_best_when_all_is_right_and_worse_when_some_is_wrong(technique):
    metric = technique.load()
    wrong = EXPECTED.copy()
    wrong[:7] = (wrong[:7] + 1) % 4
    sign = 1 if technique.facts["better"] == "higher" else -1
    assert sign * metric(EXPECTED, EXPECTED) > sign * metric(wrong, EXPECTED)


@pytest.mark.only(when=judges_classes)
def test_a_fraction_is_between_none_and_all(technique):
    metric = technique.load()
    assert metric(EXPECTED, EXPECTED) == 1
    assert metric((EXPECTED + 1) % 4, EXPECTED) == 0
    assert 0 < metric(np.random.default_rng(0).permutation(EXPECTED), EXPECTED) < 1


@pytest.mark.only(when=judges_classes)
def test_does_not_depend_on_the_order_of_items(technique):
    metric, rng = technique.load(), np.random.default_rng(1)
    predicted, order = rng.integers(0, 4, 60), rng.permutation(60)
    value = metric(predicted[order], EXPECTED[order])
    assert value == pytest.approx(metric(predicted, EXPECTED))
    assert isinstance(value, float)


@pytest.mark.only(when=judges_classes)
@pytest.mark.parametrize("predicted", [EXPECTED[:5], EXPECTED[:0], EXPECTED.reshape(6, 10)])
def test_refuses_predictions_of_other_items(technique, predicted):
    with pytest.raises(DataError) as caught:
        technique.load()(predicted, EXPECTED)
    assert caught.value.hint


@pytest.mark.only(when=judges_likelihoods)
def test_is_better_the_likelier_the_right_tokens(technique):
    metric = technique.load()
    sign = 1 if technique.facts["better"] == "higher" else -1
    likely, unlikely = np.log(np.full(20, 0.9)), np.log(np.full(20, 0.2))
    assert sign * metric(likely) > sign * metric(np.concatenate([likely, unlikely]))
    with pytest.raises(DataError) as caught:
        metric(likely[:0])
    assert caught.value.hint


@pytest.mark.only(when=judges_divergences)
def test_is_none_where_nothing_diverges_and_worse_where_something_does(technique):
    metric = technique.load()
    near, far = np.zeros(20), np.full(20, 0.7)
    assert metric(near) == 0
    assert 0 < metric(np.concatenate([near, far])) < metric(far)
    with pytest.raises(DataError) as caught:
        metric(near[:0])
    assert caught.value.hint
