"""Importance against formulas written with numpy."""

import numpy as np
import pytest
import torch
from torch import nn

from kdeploy.pruning.coupling import LayerDim, PruningGroup, find_groups
from kdeploy.pruning.importance import batch_norm_scale, fpgm, knows, magnitude, score
from kdeploy.pruning.tracing import traceable


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
        LayerDim("0", "out"): first.sum((1, 2, 3)),
        LayerDim("0", "in"): first.sum((0, 2, 3)),
        LayerDim("1", "out"): np.abs(weight(layers, 1)) ** power,
        LayerDim("3", "out"): grouped.sum((1, 2, 3)),
        # Two groups of three inputs each, read by two outputs each.
        LayerDim("3", "in"): np.concatenate(
            [grouped[:2].sum((0, 2, 3)), grouped[2:].sum((0, 2, 3))]
        ),
        LayerDim("4", "out"): turned.sum((0, 2, 3)),
        LayerDim("4", "in"): turned.sum((1, 2, 3)),
        LayerDim("6", "in"): (np.abs(weight(layers, 6)) ** power).sum(0),
    }
    for layer_dim, numbers in expected.items():
        np.testing.assert_allclose(found[layer_dim], numbers, rtol=1e-5)


def test_the_batch_norm_scale_is_the_absolute_gamma(layers):
    with torch.no_grad():
        layers[1].weight.copy_(torch.tensor([0.5, -2.0, 1.0, 0.0, -0.25, 3.0]))
    assert batch_norm_scale(layers) == {LayerDim("1", "out"): [0.5, 2.0, 1.0, 0.0, 0.25, 3.0]}


def test_fpgm_is_the_sum_of_distances_to_the_other_filters(layers):
    found = fpgm(layers)
    filters = {
        "0": weight(layers, 0).reshape(6, -1),
        "3": weight(layers, 3).reshape(4, -1),
        "4": weight(layers, 4).transpose(1, 0, 2, 3).reshape(5, -1),
        "6": weight(layers, 6),
    }
    assert set(found) == {LayerDim(name, "out") for name in filters}
    for name, rows in filters.items():
        expected = [np.linalg.norm(rows - row, axis=1).sum() for row in rows]
        np.testing.assert_allclose(found[LayerDim(name, "out")], expected, rtol=1e-4)


def test_what_values_do_not_know_is_scored_by_the_others():
    values = {LayerDim("norm", "out"): [1.0, 3.0]}
    otherwise = {LayerDim("norm", "out"): [7.0, 7.0], LayerDim("fc", "out"): [4.0, 12.0]}
    groups = [
        PruningGroup(channels={layer_dim: (i,)}, shares={})
        for layer_dim in otherwise
        for i in range(2)
    ]
    assert [knows(values, group) for group in groups] == [True, True, False, False]
    assert score(groups, values, otherwise=otherwise) == pytest.approx([0.5, 1.5, 0.5, 1.5])


def test_a_score_is_the_mean_over_sides_with_the_mean_one():
    values = {LayerDim("a", "out"): [1.0, 2.0, 6.0], LayerDim("b", "in"): [4.0, 2.0, 0.0]}
    groups = [PruningGroup(channels=dict.fromkeys(values, (i,)), shares={}) for i in range(3)]
    # Means over both sides: 2.5, 2, 3; their mean is 2.5.
    assert score(groups, values) == pytest.approx([1.0, 0.8, 1.2])


def test_scores_of_narrow_and_wide_layers_can_be_compared():
    values = {LayerDim("a", "out"): [1.0, 3.0], LayerDim("b", "out"): [100.0, 300.0, 200.0]}
    groups = [
        PruningGroup(channels={layer_dim: (i,)}, shares={})
        for layer_dim, numbers in values.items()
        for i in range(len(numbers))
    ]
    assert score(groups, values) == pytest.approx([0.5, 1.5, 0.5, 1.5, 1.0])


def test_a_flattened_map_counts_as_one_channel():
    values = {LayerDim("a", "out"): [1.0, 3.0], LayerDim("fc", "in"): [1.0, 1.0, 2.0, 4.0]}
    groups = [
        PruningGroup(
            channels={LayerDim("a", "out"): (i,), LayerDim("fc", "in"): (2 * i, 2 * i + 1)},
            shares={},
        )
        for i in range(2)
    ]
    assert score(groups, values) == pytest.approx([1.5 / 3, 4.5 / 3])  # (1+2)/2 and (3+6)/2


def test_all_zero_weights_do_not_divide_by_zero():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).eval()
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    with traceable(model):
        groups = find_groups(model, torch.ones(2, 3))
    assert score(groups, magnitude(model, power=2)) == [0.0] * 4
