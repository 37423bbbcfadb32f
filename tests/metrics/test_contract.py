from __future__ import annotations

import numpy as np
import pytest

from kdeploy.classes import NO_CLASS
from kdeploy.errors import DataError
from kdeploy.measurement import METRICS
from kdeploy.registry import techniques

CLASSES = np.array([0, 1, 1])
JUDGING_CLASSES = [
    n for n, t in techniques("metric").items() if not {"needs", "tasks"} & set(t.facts)
]


@pytest.mark.parametrize("name", techniques("metric"))
def test_facts_are_those_of_the_measurement_table(name):
    facts = techniques("metric")[name].facts
    assert (facts["unit"], facts["better"]) == (
        METRICS[facts["name"]].unit,
        METRICS[facts["name"]].better,
    )


def test_every_quality_of_the_table_is_implemented():
    implemented = {technique.facts["name"] for technique in techniques("metric").values()}
    assert implemented == {name for name, metric in METRICS.items() if metric.is_judged}


@pytest.mark.parametrize("name", JUDGING_CLASSES)
@pytest.mark.parametrize(
    "predicted",
    [np.array([0, 1]), np.array([0.0, 1.0, 1.0]), np.array([[0], [1], [1]])],
    ids=["too few", "not integers", "two axes"],
)
def test_refuses_what_is_not_one_class_an_item(name, predicted):
    with pytest.raises(DataError, match="class"):
        techniques("metric")[name].load()(predicted, CLASSES)


@pytest.mark.parametrize("name", JUDGING_CLASSES)
def test_refuses_to_judge_nothing(name):
    nothing = np.array([], dtype=np.int64)
    with pytest.raises(DataError, match="0 predicted"):
        techniques("metric")[name].load()(nothing, nothing)


@pytest.mark.parametrize("name", JUDGING_CLASSES)
@pytest.mark.parametrize("side", [0, 1])
def test_an_item_without_a_class_is_refused_on_either_side(name, side):
    given = [CLASSES.copy(), CLASSES.copy()]
    given[side][2] = NO_CLASS
    with pytest.raises(DataError, match=r"1 of 3 items.*from 0: 2"):
        techniques("metric")[name].load()(*given)


def test_a_token_of_no_likelihood_is_refused():
    perplexity = techniques("metric")["perplexity"].load()
    with pytest.raises(DataError, match="1 of 3 log-likelihoods"):
        perplexity(np.array([-1.0, np.nan, -2.0]))
