from __future__ import annotations

import pytest

from kdeploy.distill.config import DistillConfig
from kdeploy.registry import check

HINTS = {"layers": {"a": "b"}}


def config(**given):
    return check(DistillConfig, given, where="distill")


def weights(found):
    return [keys["weight"] for entry in found.losses for keys in entry.values()]


@pytest.mark.parametrize(
    "given",
    [
        {"losses": ["kd"]},
        {"losses": ["kd", {"hints": HINTS}]},
        {"losses": [{"kd": None}]},
    ],
)
def test_where_no_weight_is_given_all_follow_from_gradients(given):
    found = config(**given)
    assert found.is_balanced
    assert set(weights(found)) == {None}
    assert found.labels.at(0.0) == 1.0
    assert found.weight_of_wrong is None


@pytest.mark.parametrize(
    ("given", "label_weight", "others"),
    [
        ({"label_weight": 0.3}, 0.3, [1.0]),
        ({"losses": [{"kd": {"weight": 0.9}}]}, 0.1, [0.9]),
        ({"losses": [{"kd": {"weight": 0.9}}, {"hints": HINTS}]}, 0.1, [0.9, 1.0]),
        ({"losses": [{"hints": {**HINTS, "weight": 50}}]}, 1.0, [50]),
        ({"losses": [{"hints": HINTS}, "kd"], "label_weight": 0}, 0, [1.0, 1.0]),
    ],
)
def test_beside_a_weight_that_is_given_all_others_are_plain(given, label_weight, others):
    found = config(**given)
    assert found.label_weight == label_weight
    assert weights(found) == others
    assert found.weight_of_wrong == 1.0
    assert config(**found.section()) == found


@pytest.mark.parametrize("given", [{}, {"epochs": 3}])
def test_a_recipe_that_says_nothing_learns_correlations_beside_the_labels(given):
    found = config(**given)
    ((name, keys),) = found.losses[0].items()
    assert (name, keys["temperature"], keys["weight"]) == ("dist", 2.0, 1.0)
    assert found.label_weight == 1.0
    assert found.weight_of_wrong is None
    assert not found.are_weights_given
    assert config(**found.section()) == found


def test_weights_are_given_only_where_somebody_chose_them():
    assert config(label_weight=0.3).are_weights_given
    assert config(losses=[{"kd": {"weight": 0.9}}]).are_weights_given
    assert not config(losses=["kd"]).are_weights_given


def test_a_weight_for_what_the_teacher_gets_wrong_can_be_given():
    assert config(wrong_weight=0.5).weight_of_wrong == 0.5
    assert config(wrong_weight=0.5, label_weight=1).weight_of_wrong == 0.5


def test_an_open_section_reads_as_it_was_written():
    assert config(**config().section()) == config()
