"""Importance against formulas written with numpy."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from kdeploy.channels.coupling import Slot, Unit, find_units
from kdeploy.channels.importance import magnitude, score
from kdeploy.channels.loss_change import taylor
from kdeploy.channels.tracing import traceable


@pytest.fixture
def layers():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 4, 1, groups=2),
        nn.ConvTranspose2d(4, 5, 2),
        nn.Flatten(),
        nn.Linear(5 * 49, 2),
    ).eval()


def weight(model, index):
    return model[index].weight.detach().numpy().astype(np.float64)


@pytest.mark.parametrize("power", [1, 2])
def test_magnitude_is_the_sum_of_powers(layers, power):
    found = magnitude(layers, power=power)
    first, grouped, turned = (np.abs(weight(layers, i)) ** power for i in (0, 3, 4))
    expected = {
        Slot("0", "out"): first.sum((1, 2, 3)),
        Slot("0", "in"): first.sum((0, 2, 3)),
        Slot("1", "out"): np.abs(weight(layers, 1)) ** power,
        Slot("3", "out"): grouped.sum((1, 2, 3)),
        # Two groups of three inputs each, read by two outputs each.
        Slot("3", "in"): np.concatenate([grouped[:2].sum((0, 2, 3)), grouped[2:].sum((0, 2, 3))]),
        Slot("4", "out"): turned.sum((0, 2, 3)),
        Slot("4", "in"): turned.sum((1, 2, 3)),
        Slot("6", "in"): (np.abs(weight(layers, 6)) ** power).sum(0),
    }
    for slot, numbers in expected.items():
        np.testing.assert_allclose(found[slot], numbers, rtol=1e-5)


def test_taylor_is_the_mean_square_of_weight_times_gradient():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3, bias=False), nn.Linear(3, 2, bias=False)).eval()
    batches = [(torch.randn(5, 4), torch.randint(2, (5,))) for _ in range(3)]
    found = taylor(model, batches)
    w, v = weight(model, 0), weight(model, 1)
    rows, columns = [], []
    for x, y in batches:
        x, hidden = x.numpy().astype(np.float64), x.numpy().astype(np.float64) @ w.T
        logits = hidden @ v.T
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        error = (p - np.eye(2)[y.numpy()]) / len(x)
        rows.append((w * (v.T @ error.T @ x)).sum(1) ** 2)
        columns.append((v * (error.T @ hidden)).sum(0) ** 2)
    np.testing.assert_allclose(found[Slot("0", "out")], np.mean(rows, 0), rtol=1e-4)
    np.testing.assert_allclose(found[Slot("1", "in")], np.mean(columns, 0), rtol=1e-4)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_taylor_tells_how_the_loss_moves_when_a_channel_goes():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3)).eval()
    x, y = torch.randn(64, 8), torch.randint(3, (64,))
    told = np.sqrt(taylor(model, [(x, y)])[Slot("2", "in")])
    moved = []
    with torch.no_grad():
        before = functional.cross_entropy(model(x), y)
        for channel in range(16):
            old = model[2].weight[:, channel].clone()
            model[2].weight[:, channel] = 0
            moved.append(abs(float(functional.cross_entropy(model(x), y) - before)))
            model[2].weight[:, channel] = old
    assert np.corrcoef(told, moved)[0, 1] > 0.8


def test_a_score_is_the_mean_over_sides_with_the_mean_one():
    values = {Slot("a", "out"): [1.0, 2.0, 6.0], Slot("b", "in"): [4.0, 2.0, 0.0]}
    units = [Unit(channels=dict.fromkeys(values, (i,)), shares={}) for i in range(3)]
    # Means over both sides: 2.5, 2, 3; their mean is 2.5.
    assert score(units, values) == pytest.approx([1.0, 0.8, 1.2])


def test_scores_of_narrow_and_wide_layers_can_be_compared():
    values = {Slot("a", "out"): [1.0, 3.0], Slot("b", "out"): [100.0, 300.0, 200.0]}
    units = [
        Unit(channels={slot: (i,)}, shares={})
        for slot, numbers in values.items()
        for i in range(len(numbers))
    ]
    assert score(units, values) == pytest.approx([0.5, 1.5, 0.5, 1.5, 1.0])


def test_a_flattened_map_counts_as_one_channel():
    values = {Slot("a", "out"): [1.0, 3.0], Slot("fc", "in"): [1.0, 1.0, 2.0, 4.0]}
    units = [
        Unit(channels={Slot("a", "out"): (i,), Slot("fc", "in"): (2 * i, 2 * i + 1)}, shares={})
        for i in range(2)
    ]
    assert score(units, values) == pytest.approx([1.5 / 3, 4.5 / 3])  # (1+2)/2 and (3+6)/2


def test_all_zero_weights_do_not_divide_by_zero():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).eval()
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    with traceable(model):
        units = find_units(model, torch.ones(2, 3))
    assert score(units, magnitude(model, power=2)) == [0.0] * 4
