"""What is proposed follows from the trials alone, and is better than chance."""

from __future__ import annotations

import numpy as np
import pytest

from kdeploy.recipe.sections import SearchSection
from kdeploy.search.front import costs, hypervolume
from kdeploy.search.sampler import propose
from kdeploy.search.space import Choice, Range
from kdeploy.search.trials import Trial

pytest.importorskip("optuna", reason="pip install 'kdeploy[search]'")
SPACE = (
    Choice(key="width", options=(4, 8, 16, 32, 64)),
    Range(key="rate", low=0.001, high=1.0, log=True),
    Range(key="epochs", low=2, high=20, step=2),
    Choice(key="loss", options=({"kd": {}}, None, "dist")),
)
OBJECTIVES = ["accuracy.top1", "latency.p50"]


def section(sampler):
    return SearchSection(sampler=sampler, objectives=OBJECTIVES)


def made(number, point):
    error = 0.4 / point["width"] ** 0.5 + 0.03 * abs(np.log10(point["rate"]) + 1.5) ** 2
    error += 0.1 / point["epochs"] + 0.05 * (point["loss"] != "dist")
    values = {"accuracy.top1": 1 - min(error, 0.9), "latency.p50": 1e-6 * point["width"]}
    return Trial(number=number, state="complete", parameters=point, values=values)


def searched(sampler, count, start=()):
    trials = list(start)
    for number in range(len(trials), count):
        trials.append(made(number, propose(SPACE, section(sampler), trials, [], number=number)))
    return trials


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_search_that_is_taken_up_again_asks_for_the_same(sampler):
    whole = searched(sampler, 16)
    assert searched(sampler, 16, start=whole[:13]) == whole


def test_points_are_inside_the_space():
    for trial in searched("random", 20):
        point = trial.parameters
        assert point["width"] in SPACE[0].options
        assert 0.001 <= point["rate"] <= 1.0
        assert point["epochs"] in range(2, 21, 2)
        assert point["loss"] in SPACE[3].options


def test_a_batch_has_no_two_alike():
    trials = searched("tpe", 12)
    first = propose(SPACE, section("tpe"), trials, [], number=12)
    second = propose(SPACE, section("tpe"), trials, [first], number=13)
    assert first != second


def test_failed_and_rejected_trials_do_not_stop_it():
    trials = [
        *searched("tpe", 11),
        Trial(number=11, state="failed", parameters=SPACE_POINT, reason="no"),
        Trial(
            number=12,
            state="rejected",
            parameters=SPACE_POINT,
            values={"latency.p50": 1e-3},
            gates={"latency.p50: <= 1us": 9.0},
        ),
    ]
    assert set(propose(SPACE, section("tpe"), trials, [], number=13)) == {d.key for d in SPACE}


SPACE_POINT = {"width": 4, "rate": 0.1, "epochs": 4, "loss": None}


def test_learning_from_trials_covers_more_than_chance():
    def covered(sampler):
        found = []
        for shift in range(3):
            trials = []
            for number in range(30):
                asked = SearchSection(sampler=sampler, objectives=OBJECTIVES, seed=shift)
                trials.append(made(number, propose(SPACE, asked, trials, [], number=number)))
            points = [costs(t.values, OBJECTIVES) for t in trials]
            found.append(hypervolume(points, (0.6, -3.0)))
        return float(np.median(found))

    assert covered("tpe") > covered("random")
