"""The learning rate of each step against torch's own schedules and the formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from kdeploy.errors import ModelError
from kdeploy.training.config import TrainingConfig
from kdeploy.training.optimization import learning_rate_at, optimizer_of

STEPS = 10
SETTINGS = TrainingConfig(epochs=5, batch_size=8, learning_rate=0.4, weight_decay=0.01)


def rates(**changes):
    settings = SETTINGS.model_copy(update=changes)
    return [learning_rate_at(step, STEPS, settings) for step in range(settings.epochs * STEPS)]


def rates_of_torch(schedule, optimizer, count):
    found = []
    for _ in range(count):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def sgd():
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.4, momentum=0.9)


def test_cosine_is_that_of_torch():
    optimizer = sgd()
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=50)
    assert rates() == pytest.approx(rates_of_torch(schedule, optimizer, 50))


@pytest.mark.parametrize(("warmup_epochs", "rise"), [(0.0, 0.3), (1.0, 0.2), (2.5, 0.5)])
def test_one_cycle_is_that_of_torch(warmup_epochs, rise):
    optimizer = sgd()
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=0.4, total_steps=50, pct_start=rise, cycle_momentum=False
    )
    found = rates(schedule="one_cycle", warmup_epochs=warmup_epochs)
    assert found == pytest.approx(rates_of_torch(schedule, optimizer, 50))


def test_warm_up_rises_in_a_line_to_the_peak():
    found = rates(warmup_epochs=1.0)
    assert found[:10] == pytest.approx(0.4 * np.arange(1, 11) / 10)
    assert found[10:] == pytest.approx(0.2 * (1 + np.cos(np.pi * np.arange(40) / 40)))


def test_constant_stays_after_the_warm_up():
    assert rates(schedule="constant") == [0.4] * 50
    found = rates(schedule="constant", warmup_epochs=0.5)
    assert found == pytest.approx([0.08, 0.16, 0.24, 0.32] + [0.4] * 46)


@pytest.mark.parametrize("schedule", ["cosine", "one_cycle", "constant"])
def test_one_epoch_of_one_step_is_no_corner(schedule):
    settings = SETTINGS.model_copy(update={"epochs": 1, "schedule": schedule})
    assert 0 < learning_rate_at(0, 1, settings) <= 0.4


def test_a_step_of_sgd_is_that_of_the_formula():
    weights = nn.Linear(2, 1, bias=False)
    before = weights.weight.detach().clone()
    optimizer = optimizer_of(weights, SETTINGS)
    weights(torch.tensor([[1.0, 2.0]])).sum().backward()
    optimizer.step()
    gradient = torch.tensor([[1.0, 2.0]]) + 0.01 * before
    # Nesterov's first step: gradient + momentum x gradient.
    assert torch.allclose(weights.weight, before - 0.4 * 1.9 * gradient)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_gradient_may_come_later_than_others(momentum):
    found, expected = nn.Linear(2, 3), nn.Linear(2, 3)
    expected.load_state_dict(found.state_dict())
    plain = torch.optim.SGD(
        expected.parameters(),
        lr=0.4,
        momentum=momentum,
        nesterov=momentum > 0,
        weight_decay=0.01,
        foreach=False,
    )
    for model, optimizer in (
        (found, optimizer_of(found, SETTINGS.model_copy(update={"momentum": momentum}))),
        (expected, plain),
    ):
        for step in range(3):
            optimizer.zero_grad()
            (model.weight.sum() + (model.bias**2).sum() if step else model.weight.sum()).backward()
            optimizer.step()
    assert torch.allclose(found.weight, expected.weight)
    assert torch.allclose(found.bias, expected.bias)


def test_only_what_wants_a_gradient_is_trained():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    (group,) = optimizer_of(model, SETTINGS.model_copy(update={"optimizer": "adamw"})).param_groups
    assert group["params"] == list(model[1].parameters())
    with pytest.raises(ModelError, match="nothing to train"):
        optimizer_of(model[0], SETTINGS)
