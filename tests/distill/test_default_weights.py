from __future__ import annotations

from pathlib import Path

import pytest
import torch

from kdeploy.distill.config import DistillConfig
from kdeploy.recipe.resolve import parse
from kdeploy.registry import check

RECIPE = {
    "data": {"name": "digits"},
    "teacher": {"build": "build.py:net"},
    "student": {"build": "build.py:net"},
}
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


def test_two_classes_learn_what_tells_a_threshold():
    usual = config()
    two = usual.for_classes(2, "classification")
    assert two.losses == [{"kd": {**two.losses[0]["kd"], "temperature": 2.0, "weight": 1.0}}]
    assert two.label_weight == usual.label_weight
    assert not two.are_weights_given
    assert two.weight_of_wrong is None
    assert two.identity() != usual.identity()
    assert usual.for_classes(3, "classification") is usual
    assert usual.for_classes(0, "classification") is usual
    named = config(losses=["dist"])
    assert named.for_classes(2, "classification") is named
    beside = config(label_weight=0.3).for_classes(2, "classification")
    assert (beside.losses, beside.label_weight) == (two.losses, 0.3)


def test_masks_of_more_than_one_object_learn_correlations_of_pixels():
    recipe = {**RECIPE, "task": "segmentation", "distill": {"epochs": 1}}
    usual = parse(recipe, folder=Path()).distill
    ((name, keys),) = usual.losses[0].items()
    assert (name, keys["temperature"], keys["weight"]) == ("dist", 1.0, 2.0)
    assert usual.label_weight == 1.0
    assert not usual.are_weights_given
    assert usual.for_classes(11, "segmentation") is usual
    two = usual.for_classes(2, "segmentation")  # no threshold, see below
    assert [list(entry) for entry in two.losses] == [["pixel_kd"]]
    assert not two.are_weights_given
    chosen = parse({**recipe, "distill": {"label_weight": 0.5}}, folder=Path()).distill
    assert (chosen.label_weight, chosen.losses) == (0.5, usual.losses)
    assert chosen.are_weights_given


def test_the_correlation_of_two_classes_knows_no_threshold():
    """Why: a student that calls every item the second class loses nothing by `dist`."""
    from kdeploy.distill.losses.dist import dist
    from kdeploy.distill.losses.kd import kd

    margin = torch.linspace(-0.5, 0.5, 16)
    teacher = torch.stack([-margin, margin], dim=1)
    # One class wins everywhere; the order of the items is the teacher's.
    student = torch.stack([-0.1 * margin - 0.5, 0.1 * margin + 0.5], dim=1)
    labels = (margin > 0).long()
    assert (student.argmax(1) == 1).all()
    intra = dist(student, teacher, labels, beta=0.0, temperature=2.0)
    assert intra.item() == pytest.approx(0.0, abs=0.02)
    moved = student.clone().requires_grad_()
    (inter,) = torch.autograd.grad(dist(moved, teacher, labels, gamma=0.0, temperature=2.0), moved)
    assert inter.abs().max() < 1e-5
    kd(moved, teacher, labels, temperature=2.0).backward()
    assert (moved.grad[:, 1] - moved.grad[:, 0]).mean() > 1e-3  # the second class is asked to fall
