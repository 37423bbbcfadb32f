"""Layers that are built alike, whatever their names and widths."""

import torch
from torch import nn

from kdeploy.pruning.coupling import find_groups
from kdeploy.pruning.isomorphism import kinds_of
from kdeploy.pruning.tracing import traceable


class Block(nn.Module):
    def __init__(self, width, kernel=3):
        super().__init__()
        self.inner = nn.Conv2d(width, 2 * width, kernel, padding=kernel // 2)
        self.norm = nn.BatchNorm2d(2 * width)
        self.outer = nn.Conv2d(2 * width, width, 1)

    def forward(self, x):
        return x + self.outer(self.norm(self.inner(x)).relu())


def kinds(*layers):
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)).eval()
    with traceable(model):
        groups = find_groups(model, torch.randn(2, 3, 8, 8))
    return {
        next(layer_dim.layer for layer_dim, _ in family if layer_dim.side == "out"): kind
        for family, kind in kinds_of(model, groups).items()
    }


def test_inner_channels_of_like_blocks_are_one_kind_and_those_of_the_sum_another():
    found = kinds(nn.Conv2d(3, 4, 1), Block(4), nn.Conv2d(4, 8, 1), Block(8))
    assert found["1.inner"] == found["3.inner"]
    assert found["0"] != found["1.inner"]
    assert found["2"] not in (found["0"], found["1.inner"])  # a linear layer reads it, too


def test_another_kernel_or_depthwise_is_another_kind():
    found = kinds(nn.Conv2d(3, 8, 1), Block(8, 3), Block(8, 1))
    assert found["1.inner"] != found["2.inner"]
    depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
    one = kinds(nn.Conv2d(3, 8, 1), depthwise, nn.Conv2d(8, 8, 1))
    other = kinds(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1))
    assert one["0"] != other["0"]


def test_a_raw_parameter_has_a_kind():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.rand(4, 1, 1))

        def forward(self, x):
            return x * self.scale

    found = kinds(nn.Conv2d(3, 4, 1), Scaled(), nn.Conv2d(4, 8, 1))
    assert ("parameter", "dimension 0", (), False) in found["0"]
