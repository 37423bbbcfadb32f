from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from kdeploy.quantization.bias_correction import correct_biases
from kdeploy.quantization.calibration import calibrate
from kdeploy.quantization.number_format import INT7, INT8


def rounded(layer, steps):
    """Return the layer with the weights that the codes stand for."""
    twin = copy.deepcopy(layer)
    with torch.no_grad():
        ones = [1] * (layer.weight.dim() - 1)
        step = layer.weight.abs().flatten(1).amax(1).reshape(-1, *ones) / steps
        twin.weight.copy_(torch.round(layer.weight / step) * step)
    return twin


LAYERS = {
    "linear": (nn.Linear(6, 4), (6,)),
    "tokens": (nn.Linear(6, 4), (3, 6)),
    "padded": (nn.Conv2d(3, 4, 3, stride=2, padding=1), (3, 7, 7)),
    "depthwise": (nn.Conv2d(4, 8, 3, padding="same", groups=4), (4, 5, 5)),
    "signal": (nn.Conv1d(3, 4, 5), (3, 9)),
    "without_bias": (nn.Conv2d(3, 4, 1, bias=False), (3, 4, 4)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_the_mean_of_every_output_is_what_it_was(name):
    layer, shape = LAYERS[name]
    model = nn.Sequential(copy.deepcopy(layer))
    x = torch.randn(12, *shape) + 1
    with torch.no_grad():
        before = model(x)
        calibration = calibrate(model, x[:2], [x[:8], x[8:]])
        removed = correct_biases(model, calibration, INT7)
        after = rounded(model[0], 63)(x)
    channel = before.dim() - 1 if isinstance(layer, nn.Linear) else 1
    dims = [d for d in range(before.dim()) if d != channel]
    torch.testing.assert_close(after.mean(dims), before.mean(dims), rtol=1e-4, atol=1e-5)
    assert removed["0.weight"] > 0


def test_weights_that_were_rounded_otherwise_are_taken_as_they_are():
    model = nn.Sequential(nn.Linear(5, 3))
    x = torch.randn(16, 5) + 1
    up = model[0].weight.detach() + 0.1
    with torch.no_grad():
        before = model(x).mean(0)
        correct_biases(model, calibrate(model, x[:2], [x]), INT8, rounded={"0.weight": up})
        after = nn.functional.linear(x, up, model[0].bias).mean(0)
    torch.testing.assert_close(after, before)
