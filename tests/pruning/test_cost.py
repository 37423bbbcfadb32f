"""Costs told in advance are those that are counted afterwards."""

import pytest
import torch
from torch import nn

from kdeploy.pruning.choice import Ranking, Rules, balance, choose
from kdeploy.pruning.cost import cost_without
from kdeploy.pruning.coupling import LayerDim, find_groups
from kdeploy.pruning.removal import all_channels, remove_channels
from kdeploy.pruning.tracing import traceable
from kdeploy.torch_module.complexity import count_macs, count_parameters


@pytest.mark.parametrize("name", ["Residual", "Concat", "Depthwise", "Grouped", "Shared", "Signal"])
def test_the_forecast_is_the_count(make, example, name):
    model = make(name)
    with traceable(model):
        groups = find_groups(model, example)
    groups = balance(groups, [0.0] * len(groups))
    ranking = Ranking(groups, [float(index) for index in range(len(groups))])
    kept = choose(ranking, 0.4, Rules(scope="local"))
    macs, parameters, size = (
        cost_without(model, example, what) for what in ("macs", "parameters", "size")
    )
    assert macs({}) == count_macs(model, example)
    assert parameters({}) == count_parameters(model)
    assert size({}) == sum(tensor.nbytes for tensor in model.state_dict().values())
    remove_channels(model, all_channels(ranking.groups(kept)))
    lost = ranking.channels(kept)
    assert macs(lost) == pytest.approx(count_macs(model, example), abs=1)
    assert parameters(lost) == pytest.approx(count_parameters(model), abs=0.1)
    size_bytes = sum(tensor.nbytes for tensor in model.state_dict().values())
    assert size(lost) == pytest.approx(size_bytes, abs=0.4)


def test_a_transposed_convolution_costs_its_inputs(example):
    model = nn.Sequential(nn.ConvTranspose2d(3, 8, 2, stride=2), nn.Conv2d(8, 2, 1))
    macs = cost_without(model, example, "macs")
    assert macs({}) == 3 * 8 * 4 * 64 + 8 * 2 * 256
    assert macs({LayerDim("0", "out"): 4, LayerDim("1", "in"): 4}) == macs({}) / 2


def test_products_of_activations_count_as_unchanged(make, example):
    model = make("Tokens")
    macs = cost_without(model, example, "macs")
    with torch.no_grad():
        assert macs({}) == count_macs(model, example)
    lost = {LayerDim("up", "out"): 24, LayerDim("down", "in"): 24}
    assert macs({}) - macs(lost) == 2 * 16 * 24 * 16
