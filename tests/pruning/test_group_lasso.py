"""The proximal step against the formula written with numpy."""

import numpy as np
import pytest
import torch
from torch import nn

from kdeploy.pruning.coupling import LayerDim, PruningGroup, find_groups
from kdeploy.pruning.group_lasso import GroupLasso
from kdeploy.pruning.removal import all_channels, remove_checked
from kdeploy.pruning.tracing import traceable


def test_a_step_is_the_formula():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    groups = [
        PruningGroup(channels={LayerDim("0", "out"): (i,), LayerDim("2", "in"): (i,)}, shares={})
        for i in (0, 2)
    ]
    first, second = (model[i].weight.detach().numpy().copy() for i in (0, 2))
    biases = [model[i].bias.detach().clone() for i in (0, 2)]
    lasso = GroupLasso(groups, 0.5)
    lasso.begin(model)
    lasso.after_step(0.5, 0.1)
    for channel in (0, 2):
        norm = np.sqrt((first[channel] ** 2).sum() + (second[:, channel] ** 2).sum())
        factor = max(0.0, 1 - 0.1 * 0.5 * np.sqrt(6) / norm)
        assert 0 < factor < 1
        first[channel] *= factor
        second[:, channel] *= factor
    np.testing.assert_allclose(model[0].weight.detach(), first, rtol=1e-5)
    np.testing.assert_allclose(model[2].weight.detach(), second, rtol=1e-5)
    assert [torch.equal(model[i].bias, b) for i, b in zip((0, 2), biases, strict=True)] == [
        True
    ] * 2


def test_a_weight_between_two_groups_shrinks_by_both_factors():
    torch.manual_seed(0)
    model = nn.Linear(2, 2, bias=False)
    groups = [
        PruningGroup(channels={LayerDim("", side): (0,)}, shares={}) for side in ("in", "out")
    ]
    before = model.weight.detach().numpy().copy()
    factors = [
        1 - 0.01 * np.sqrt(2) / np.linalg.norm(before[:, 0]),
        1 - 0.01 * np.sqrt(2) / np.linalg.norm(before[0]),
    ]
    lasso = GroupLasso(groups, 0.1)
    lasso.begin(model)
    lasso.after_step(0.0, 0.1)
    found = model.weight.detach().numpy() / before
    np.testing.assert_allclose(
        found, [[factors[0] * factors[1], factors[1]], [factors[0], 1.0]], rtol=1e-5
    )


@pytest.mark.parametrize("name", ["Residual", "Depthwise", "Grouped", "Signal"])
def test_groups_end_at_zero_and_can_go_without_a_trace(make, example, name):
    model = make(name)
    with traceable(model):
        groups = [group for group in find_groups(model, example) if _is_even(group)][::2]
    lasso = GroupLasso(groups, 1.0)
    lasso.begin(model)
    for _ in range(40):
        lasso.after_step(0.0, 0.05)
    with torch.no_grad():
        expected = model(example)
    moved = remove_checked(model, all_channels(groups), example)
    assert moved < 1e-5
    with torch.no_grad():
        torch.testing.assert_close(model(example), expected)


def _is_even(group):
    return all(len(set(share)) == 1 for share in group.shares.values())


def test_a_transposed_convolution_shrinks_its_own_channels():
    model = nn.Sequential(nn.ConvTranspose2d(2, 3, 2), nn.Conv2d(3, 2, 1))
    before = model[0].weight.detach().clone()
    lasso = GroupLasso([PruningGroup(channels={LayerDim("0", "out"): (1,)}, shares={})], 0.1)
    lasso.begin(model)
    lasso.after_step(0.0, 0.1)
    same = (model[0].weight == before).all((0, 2, 3))
    assert same.tolist() == [True, False, True]


def test_the_fingerprint_tells_the_strength():
    assert GroupLasso([], 0.1).fingerprint != GroupLasso([], 0.2).fingerprint
