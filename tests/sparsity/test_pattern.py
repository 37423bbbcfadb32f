"""Two of four, in the layout that runs."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from kdeploy.sparsity.pattern import (
    best_two_of_four,
    check_two_four,
    held_groups,
    order_that_runs,
    reason_to_stay_dense,
    rows_that_run,
    two_four_layers,
    weight_from_rows,
)


def sparse(layer):
    rows = rows_that_run(layer.weight.detach())
    layer.weight.data.copy_(weight_from_rows(rows * best_two_of_four(rows.abs()), layer.weight))
    return layer


def test_rows_are_those_of_the_matrix_product_that_channels_last_convolutions_are():
    conv, x = nn.Conv2d(8, 6, (3, 2), bias=False), torch.randn(2, 8, 5, 7)
    patches = x.permute(0, 2, 3, 1).unfold(1, 3, 1).unfold(2, 2, 1)  # n, y, x, channel, kh, kw
    columns = patches.permute(0, 1, 2, 4, 5, 3).reshape(-1, 48)
    found = columns @ rows_that_run(conv.weight.detach()).T
    expected = conv(x).permute(0, 2, 3, 1).reshape(-1, 6)
    torch.testing.assert_close(found, expected.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(6, 8), (6, 8, 3), (6, 8, 3, 2), (2, 4, 1, 2, 3)])
def test_rows_go_back_to_the_weight(shape):
    weight = torch.randn(shape)
    rows = rows_that_run(weight)
    assert torch.equal(weight_from_rows(rows, weight), weight)
    assert torch.equal(weight.flatten(1)[:, order_that_runs(weight)], rows)


def test_groups_lie_along_the_input_channels_of_each_kernel_position():
    weight = torch.zeros(1, 8, 3, 3)
    weight[:, [0, 3, 4, 7]] = 1
    assert held_groups(weight) == 1
    weight[0, 1, 2, 0] = 1
    assert held_groups(weight) == 1 - 1 / 18
    # In the order of `flatten(1)`, two of each four in a row.
    weight = (torch.arange(32) % 4 < 2).float().view(1, 8, 2, 2)
    assert held_groups(weight) == 0.5


def test_keeps_the_two_largest_of_four():
    row = torch.tensor([[1.0, 4.0, 3.0, 2.0, 0.0, 0.0, 0.0, 9.0]])
    assert best_two_of_four(row).int().tolist() == [[0, 1, 1, 0, 1, 0, 0, 1]]


def test_names_layers_that_hold_the_pattern():
    model = nn.Sequential(sparse(nn.Linear(16, 16)), nn.Linear(16, 16), sparse(nn.Conv2d(8, 4, 3)))
    assert two_four_layers(model) == ("0", "2")
    check_two_four(model)


def test_the_check_finds_no_pattern_and_a_broken_one():
    with pytest.raises(AssertionError, match="no layer has"):
        check_two_four(nn.Sequential(nn.Linear(16, 16)))
    model = nn.Sequential(sparse(nn.Linear(16, 16)), sparse(nn.Conv2d(16, 16, 3)))
    model[1].weight.data[0, :4, 0, 0] = 1
    with pytest.raises(AssertionError, match=r"`1` \(0\.17% of its groups\)"):
        check_two_four(model)


@pytest.mark.parametrize("part", [0.5, 0.6, 0.9])
def test_the_check_does_not_mind_other_zeros_beside_the_pattern(part):
    model = nn.Sequential(sparse(nn.Linear(64, 64)), nn.Linear(64, 64))
    functional.dropout(model[1].weight.data, part, inplace=True)
    assert two_four_layers(model) == ("0",)
    check_two_four(model)


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (nn.Linear(32, 48), None),
        (nn.Conv2d(32, 48, 3), None),
        (nn.Conv2d(3, 48, 3), "3 inputs, no multiple of 16"),
        (nn.Linear(20, 10), "20 inputs and 10 outputs, no multiple of 16"),
        (nn.Conv2d(32, 32, 3, groups=32), "depthwise"),
        (nn.Conv2d(32, 32, 3, groups=2), "grouped"),
    ],
)
def test_says_why_a_layer_stays_dense(layer, reason):
    found = reason_to_stay_dense(layer, 16)
    assert found is None if reason is None else found.startswith(reason)
