"""Removing channels: what is left is what index selection leaves."""

import pytest
import torch
from torch import nn

from kdeploy.errors import ModelError
from kdeploy.pruning.coupling import LayerDim, PruningGroup
from kdeploy.pruning.removal import (
    all_channels,
    channel_count,
    check_sizes,
    hide_channels,
    remove_channels,
    remove_checked,
)


def test_channels_of_units_are_collected_by_side():
    one = PruningGroup(
        channels={LayerDim("b", "out"): (3, 1), LayerDim("a", "in"): (0,)}, shares={}
    )
    two = PruningGroup(channels={LayerDim("b", "out"): (2,)}, shares={})
    found = all_channels([two, one])
    assert found == {LayerDim("a", "in"): (0,), LayerDim("b", "out"): (1, 2, 3)}
    assert list(found) == sorted(found)


@pytest.mark.parametrize(
    ("layer", "side", "dimension"),
    [
        (nn.Conv2d(6, 4, 3), "in", 1),
        (nn.Conv2d(6, 8, 3), "out", 0),
        (nn.Conv1d(6, 8, 3), "out", 0),
        (nn.ConvTranspose2d(6, 4, 2), "in", 0),
        (nn.ConvTranspose2d(4, 6, 2), "out", 1),
        (nn.Linear(6, 4), "in", 1),
        (nn.Linear(4, 6), "out", 0),
        (nn.Conv2d(6, 6, 3, groups=6), "out", 0),
        (nn.BatchNorm2d(6), "out", 0),
        (nn.LayerNorm(6), "out", 0),
        (nn.GroupNorm(2, 6), "out", 0),
        (nn.PReLU(6), "out", 0),
        (nn.Embedding(3, 6), "out", 1),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else str(value),
)
def test_a_layer_keeps_the_other_channels(layer, side, dimension):
    model = nn.Sequential(layer)
    torch.nn.init.normal_(layer.weight)
    kept = [i for i in range(layer.weight.shape[dimension]) if i not in (1, 4)]
    expected = layer.weight.detach().index_select(dimension, torch.tensor(kept))
    layer_dim = LayerDim("0", side)
    count = channel_count(model, layer_dim)
    remove_channels(model, {layer_dim: (4, 1)})
    assert torch.equal(layer.weight, expected)
    assert channel_count(model, layer_dim) == count - 2
    check_sizes(model)


def test_statistics_of_batch_norm_are_kept():
    model = nn.Sequential(nn.BatchNorm2d(4))
    model[0].running_mean.copy_(torch.arange(4.0))
    model[0].running_var.copy_(torch.arange(4.0) + 1)
    remove_channels(model, {LayerDim("0", "out"): (0, 2)})
    assert model[0].running_mean.tolist() == [1.0, 3.0]
    assert model[0].running_var.tolist() == [2.0, 4.0]


def test_each_group_may_lose_inputs_at_its_own_places():
    torch.manual_seed(0)
    layer = nn.Conv2d(8, 4, 1, groups=2, bias=False)
    model, x = nn.Sequential(layer), torch.randn(2, 8, 3, 3)
    gone = {LayerDim("0", "in"): (0, 6)}  # the first of group 0, the third of group 1
    expected = hide_channels(model, gone)(x)
    remove_channels(model, gone)
    kept = [i for i in range(8) if i not in (0, 6)]
    torch.testing.assert_close(model(x[:, kept]), expected)
    assert layer.in_channels == 6


def test_a_raw_parameter_gets_narrower():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.arange(4.0).view(4, 1, 1), requires_grad=False)

    model = nn.Sequential(Scaled())
    layer_dim = LayerDim("0.scale", "dimension 0")
    assert channel_count(model, layer_dim) == 4
    remove_channels(model, {layer_dim: (1,)})
    assert model[0].scale.flatten().tolist() == [0.0, 2.0, 3.0]
    assert not model[0].scale.requires_grad


def test_the_wish_for_gradients_is_kept_and_gradients_are_dropped():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    model[0].weight.requires_grad_(False)
    model(torch.ones(1, 4)).sum().backward()
    remove_channels(model, {LayerDim("0", "out"): (1,), LayerDim("1", "in"): (1,)})
    assert [p.requires_grad for p in model.parameters()] == [False, True, True, True]
    assert all(parameter.grad is None for parameter in model.parameters())


def test_hidden_channels_are_read_by_nobody():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    hidden = hide_channels(model, {LayerDim("0", "out"): (2,), LayerDim("1", "in"): (2,)})
    assert hidden[1].weight[:, 2].tolist() == [0.0, 0.0]
    assert torch.equal(hidden[0].weight, model[0].weight)
    assert model[1].weight[:, 2].abs().sum() > 0


def test_a_removal_that_does_not_fit_moves_the_output_or_fails():
    torch.manual_seed(0)
    x = torch.randn(2, 3)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    right = {LayerDim("0", "out"): (2,), LayerDim("1", "in"): (2,)}
    assert remove_checked(copy(model), right, x) < 1e-5
    wrong = {LayerDim("0", "out"): (2,), LayerDim("1", "in"): (1,)}
    assert remove_checked(copy(model), wrong, x) > 1e-2
    with pytest.raises(ModelError, match="cannot run"):
        remove_checked(copy(model), {LayerDim("0", "out"): (2,)}, x)


def copy(model):
    import copy

    return copy.deepcopy(model)


def test_stated_sizes_must_be_those_of_the_weights():
    model = nn.Sequential(nn.Conv2d(3, 4, 1))
    model[0].out_channels = 3
    with pytest.raises(AssertionError, match="`0` states"):
        check_sizes(model)
