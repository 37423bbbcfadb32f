"""The objective for one's own loop: same losses, same gradients, nothing of the teacher in it."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import kdeploy
from kdeploy.errors import ModelError, RecipeError, UnknownName
from tests.tiny.tasks import Dense
from tests.tiny.two_inputs import pictured, pictured_items

X, Y = torch.rand(6, 1, 12, 12), torch.arange(6) % 4


@pytest.fixture
def teacher(tiny_model):
    return tiny_model(seed=1, width=12)


@pytest.fixture
def student(tiny_model):
    return tiny_model(seed=2, width=4)


def test_the_loss_is_that_of_the_formula(student, teacher):
    losses = [{"kd": {"temperature": 2.0, "weight": 0.9}}]
    objective = kdeploy.Objective(student, teacher, losses=losses, label_weight=0.1)
    loss = objective(X, Y)
    own, other = student(X), teacher(X).detach()
    soft = F.kl_div(
        (own / 2).log_softmax(1), (other / 2).log_softmax(1), log_target=True, reduction="batchmean"
    )
    torch.testing.assert_close(loss, 0.9 * 4 * soft + 0.1 * F.cross_entropy(own, Y))
    assert objective.components.keys() == {"labels", "kd"}


def test_nothing_of_the_teacher_is_trained_or_stored(student, teacher):
    objective = kdeploy.Objective(student, teacher)
    known = {id(parameter) for parameter in student.parameters()}
    assert {id(parameter) for parameter in objective.parameters()} == known
    objective.train()
    objective(X, Y).backward()
    assert student.training
    assert not teacher.training
    assert all(parameter.grad is None for parameter in teacher.parameters())
    names = set(objective.state_dict())
    assert {name.removeprefix("student.") for name in names} == set(student.state_dict())


def test_a_loop_of_one_s_own_learns(student, teacher):
    objective = kdeploy.Objective(student.train(), teacher, label_weight=0.0)
    optimizer = torch.optim.AdamW(objective.parameters(), 0.01)
    seen = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = objective(X)
        loss.backward()
        optimizer.step()
        seen.append(loss.item())
    assert seen[-1] < seen[0]


def test_what_losses_train_is_among_the_parameters(student, teacher):
    hints = [{"hints": {"layers": {"blocks.0": "blocks.0"}}}]
    with pytest.raises(RecipeError, match="trains weights of its own") as caught:
        kdeploy.Objective(student, teacher, losses=hints)
    assert "example=" in caught.value.hint
    objective = kdeploy.Objective(student, teacher, losses=hints, example=X[:2])
    more = len(list(objective.parameters())) - len(list(student.parameters()))
    assert more > 0
    objective(X, Y).backward()
    assert all(p.grad is not None for p in objective.loss_bank.parameters())


def test_a_weight_may_follow_the_progress(student, teacher):
    fading = [{"kd": {"weight": {"linear": {"start": 1.0, "end": 0.0}}}}]
    objective = kdeploy.Objective(student.eval(), teacher, losses=fading, label_weight=0.0)
    first, half = objective(X), objective(X, progress=0.5)
    torch.testing.assert_close(half, first / 2)


def test_relations_choose_their_layers(student, teacher):
    objective = kdeploy.Objective(student, teacher, losses=["rkd"], label_weight=0.0)
    assert objective(X).isfinite()


@pytest.mark.parametrize(
    ("given", "call", "error", "message"),
    [
        ({}, lambda o: o(X), RecipeError, "this batch has none"),
        ({"losses": ["kdd"]}, None, UnknownName, "kdd"),
        ({"losses": [], "label_weight": 0.0}, lambda o: o(X), RecipeError, "nothing to learn"),
    ],
)
def test_what_makes_no_sense_is_told(given, call, error, message, student, teacher):
    with pytest.raises(error, match=message) as caught:
        call(kdeploy.Objective(student, teacher, **given))
    assert caught.value.hint


def test_it_moves_and_computes_in_other_numbers(student, teacher):
    objective = kdeploy.Objective(student, teacher).to(torch.float64)
    assert objective(X.double(), Y).isfinite()
    assert next(teacher.parameters()).dtype == torch.float64
    assert isinstance(objective, nn.Module)


def test_several_inputs_are_given_by_name():
    torch.manual_seed(0)
    student, teacher = pictured(4), pictured(8)
    items = {k: torch.from_numpy(v) for k, v in pictured_items(16).items()}
    targets = items.pop("y")
    objective = kdeploy.Objective(student.eval(), teacher, losses=["kd"], label_weight=1.0)
    loss = objective(items, targets)
    labels = F.cross_entropy(student(**items), targets)
    torch.testing.assert_close(objective.components["labels"], labels.detach())
    loss.backward()
    assert student.embed.weight.grad.abs().sum() > 0


MASKS = torch.arange(6 * 16 * 16).reshape(6, 16, 16) % 3


def test_the_classes_of_pixels_are_compared_where_they_stand():
    x, student, teacher = torch.rand(6, 1, 16, 16), Dense(4, 3, 2).eval(), Dense(8, 3, 1).eval()
    given = {"losses": [{"pixel_kd": {"weight": 1.0}}], "label_weight": 1.0, "example": x}
    objective = kdeploy.Objective(student, teacher, task="segmentation", **given).eval()
    own, other = student(x), F.interpolate(teacher(x).detach(), (8, 8), mode="bilinear")
    loss = objective(x, MASKS)
    soft = F.kl_div(own.log_softmax(1), other.log_softmax(1), log_target=True, reduction="none")
    torch.testing.assert_close(objective.components["pixel_kd"], soft.sum(1).mean())
    labels = F.cross_entropy(F.interpolate(own, (16, 16), mode="bilinear"), MASKS)
    torch.testing.assert_close(objective.components["labels"], labels.detach())
    loss.backward()
    assert all(parameter.grad is not None for parameter in student.parameters())


@pytest.mark.parametrize(
    ("losses", "name"), [(None, "dist"), (["nkd"], "nkd"), ([{"kd": {}}], "kd"), (["jsd"], "jsd")]
)
def test_losses_of_classes_fit_pixels(losses, name):
    x = torch.rand(6, 1, 16, 16)
    given = {"task": "segmentation", "losses": losses, "example": x}
    objective = kdeploy.Objective(Dense(4, 3, 2), Dense(8, 3), **given)
    assert objective(x, MASKS).isfinite()
    assert objective.components.keys() == {"labels", name}


def test_pixels_are_not_taken_for_classes_nor_back(student, teacher):
    maps = kdeploy.Objective(Dense(4, 3), Dense(8, 3))
    with pytest.raises(ModelError, match=r"answers \(2, 3, 16, 16\), and the task is") as error:
        maps(torch.rand(6, 1, 16, 16), MASKS)
    assert 'task="segmentation"' in error.value.hint
    with pytest.raises(ModelError, match=r"which has \(N, classes, height, width\)"):
        kdeploy.Objective(student, teacher, task="segmentation")(X, MASKS)


@pytest.mark.parametrize("task", ["detection", "ctc", "regression"])
def test_a_task_that_needs_its_data_is_refused_with_the_way_there_is(student, teacher, task):
    with pytest.raises(RecipeError, match="depends on its data") as error:
        kdeploy.Objective(student, teacher, task=task)
    assert "`segmentation`" in error.value.hint
    with pytest.raises(RecipeError, match="`mse`"):
        kdeploy.Objective(student, teacher, task="segmentation", losses=["mse"])
