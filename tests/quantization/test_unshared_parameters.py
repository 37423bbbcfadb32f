from __future__ import annotations

import pytest
import torch
from torch import nn

from kdeploy.quantization.capture import capture
from kdeploy.quantization.unshared_parameters import own_layers


def layers(model, x):
    return {layer.name: layer for layer in own_layers(capture(model, x), model).values()}


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(4, 4) for _ in range(3))
        self.c.bias = self.b.bias

    def forward(self, x):
        return self.c(self.b(self.a(self.a(x))))


def test_what_others_read_as_well_is_nobodys_own():
    assert layers(Shared(), torch.randn(2, 4)) == {}


def test_a_weight_that_is_computed_belongs_to_no_layer():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.plain = nn.Parameter(torch.randn(4, 4)), nn.Linear(4, 4)

        def forward(self, x):
            return self.plain(nn.functional.linear(x, self.weight * 2))

    assert list(layers(Scaled(), torch.randn(2, 4))) == ["plain.weight"]


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_scaled_inputs_are_those_that_a_scaled_tensor_would_give(groups):
    model = nn.Sequential(nn.Conv2d(4, 8, 3, groups=groups))
    x, factor = torch.randn(2, 4, 5, 5), torch.tensor([0.5, 2.0, 3.0, 0.1])
    [layer] = layers(model, x).values()
    with torch.no_grad():
        expected = model(x * factor.reshape(1, 4, 1, 1))
        largest = layer.largest_of_inputs()
        layer.scale_inputs(factor)
        torch.testing.assert_close(model(x), expected)
    torch.testing.assert_close(layer.largest_of_inputs(), largest * factor)
    assert (layer.groups, layer.num_inputs) == (groups, 4)
