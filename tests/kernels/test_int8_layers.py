from __future__ import annotations

import pytest
import torch
from torch import nn

from kdeploy.kernels.int8_layers import Epilogue, IntegerLayer, IntMm, codes_of, reals_of
from kdeploy.kernels.windows import window_of_layer

LAYERS = [
    nn.Linear(9, 7),
    nn.Linear(16, 8, bias=False),
    nn.Conv1d(3, 5, 3, stride=2, padding=1),
    nn.Conv2d(40, 6, 1),
    nn.Conv2d(5, 7, 3, stride=2, padding=1),
    nn.Conv2d(3, 5, (3, 2), stride=(1, 2), padding=(2, 0), dilation=(2, 1)),
]
EPILOGUES = [
    Epilogue(),
    Epilogue(has_relu=True, code_scale=0.5),
    Epilogue(skip_scale=0.25, has_relu=True, code_scale=0.5),
    Epilogue(skip_scale=0.25, real_type=torch.float16),
]


def integer_twin(float_layer, epilogue):
    """Return an integer layer with random codes, and its input and skip codes."""
    codes = torch.randint(-127, 128, float_layer.weight.shape, dtype=torch.int8)
    scales = torch.rand(len(codes)) / codes[0].numel() / 100
    bias = None if float_layer.bias is None else torch.randn(len(codes))
    layer = IntegerLayer(
        codes, scales, bias, window=window_of_layer(float_layer), epilogue=epilogue
    )
    positions = {2: (3,), 3: (11,), 4: (10, 9)}[codes.dim()]
    shape = (2, *positions, codes.shape[1]) if codes.dim() == 2 else (2, codes.shape[1], *positions)
    x = torch.randint(-128, 128, shape, dtype=torch.int8)
    return layer, codes, x


def by_float64(float_layer, codes, x):
    """Return the sums of products as torch's own operators find them, exact in float64."""
    twin = float_layer.double()
    twin.weight.data, twin.bias = codes.double(), None
    return twin(x.double())


@pytest.mark.parametrize("epilogue", EPILOGUES, ids=str)
@pytest.mark.parametrize("float_layer", LAYERS, ids=str)
@torch.no_grad()
def test_a_layer_is_its_formula(float_layer, epilogue):
    float_layer = type(float_layer)(*_arguments(float_layer))
    layer, codes, x = integer_twin(float_layer, epilogue)
    expected = by_float64(float_layer, codes, x)
    channels = [1] * expected.dim()
    channels[-1 if codes.dim() == 2 else 1] = -1
    expected = expected * layer.scales.view(channels) + layer.bias.view(channels)
    skip = None
    if epilogue.skip_scale:
        skip = torch.randint(-128, 128, expected.shape, dtype=torch.int8)
        expected = expected + skip * epilogue.skip_scale
    expected = expected.relu() if epilogue.has_relu else expected
    if epilogue.code_scale:
        expected = (expected / epilogue.code_scale).round().clamp(-128, 127).to(torch.int8)
    found = layer(x, skip)
    assert found.dtype == (torch.int8 if epilogue.code_scale else epilogue.real_type)
    # float16 has a step of 2 ** -11 of its value, float32 of 2 ** -24.
    step = 2**-11 if epilogue.real_type == torch.float16 else 2**-20
    torch.testing.assert_close(found.double(), expected.double(), rtol=step, atol=1e-5)
    layer.product = IntMm(layer)
    assert torch.equal(layer(x, skip), found), "_int_mm and the reference are both exact"


def _arguments(layer):
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features, layer.bias is not None
    sizes = (layer.in_channels, layer.out_channels, layer.kernel_size)
    return *sizes, layer.stride, layer.padding, layer.dilation


def test_images_stay_channels_last_between_layers():
    layer, _, x = integer_twin(nn.Conv2d(4, 8, 3, padding=1), Epilogue(code_scale=1.0))
    assert layer(x).is_contiguous(memory_format=torch.channels_last)


def test_codes_are_the_nearest_and_ties_go_to_the_even_one():
    codes = codes_of(torch.tensor([0.25, 0.75, -0.25, 1e9, -1e9, 0.6]), 0.5)
    assert codes.tolist() == [0, 2, 0, 127, -128, 1]
    assert reals_of(codes, 0.5, torch.float16).tolist()[:2] == [0.0, 1.0]
