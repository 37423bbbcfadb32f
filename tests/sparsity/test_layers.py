"""Layers that zeros can be set in."""

from __future__ import annotations

import torch
from torch import nn

from kdeploy.sparsity.layers import first_to_run, is_depthwise


def test_knows_a_depthwise_convolution_from_a_grouped_one():
    assert is_depthwise(nn.Conv2d(4, 8, 3, groups=4))
    assert not is_depthwise(nn.Conv2d(4, 8, 3, groups=2))
    assert not is_depthwise(nn.Conv2d(1, 8, 3))
    assert not is_depthwise(nn.Linear(4, 4))


class Backwards(nn.Module):
    """Defined in another order than it runs."""

    def __init__(self):
        super().__init__()
        self.last, self.first = nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, x):
        return self.last(self.first(x))


def test_the_first_layer_is_the_one_that_runs_first():
    model = Backwards()
    assert first_to_run(model, ["last", "first"], torch.zeros(1, 2)) == "first"
    assert first_to_run(model, [], torch.zeros(1, 2)) is None
    assert not model.first._forward_pre_hooks
    assert model.training
