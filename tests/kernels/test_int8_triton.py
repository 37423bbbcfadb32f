from __future__ import annotations

import pytest
import torch
from torch import nn

from kdeploy.kernels.int8_layers import Epilogue, IntegerLayer, IntMm, codes_of
from kdeploy.kernels.windows import Window, window_of_layer

pytestmark = pytest.mark.gpu


@pytest.fixture
def int8_triton():
    """Return the module, which imports Triton: torch's CUDA builds bring it."""
    from kdeploy.kernels import int8_triton

    return int8_triton


LAYERS = [
    nn.Linear(64, 96),
    nn.Linear(9, 7),
    nn.Conv2d(64, 64, 1),
    nn.Conv2d(48, 40, 3, padding=1),
    nn.Conv2d(3, 64, 7, stride=2, padding=3),
    nn.Conv2d(128, 96, (3, 2), stride=(1, 2), padding=(2, 0), dilation=(2, 1)),
    nn.Conv1d(16, 24, 5, stride=2, padding=2),
]
EPILOGUES = [
    Epilogue(),
    Epilogue(has_relu=True, code_scale=0.5),
    Epilogue(skip_scale=0.25, has_relu=True, code_scale=0.5),
    Epilogue(skip_scale=0.25, real_type=torch.float16),
]


# Each kernel is compiled for seconds: a layer and an epilogue meet two of the six tiles, and each
# tile meets every epilogue and every layer.
@pytest.mark.parametrize("epilogue", EPILOGUES, ids=str)
@pytest.mark.parametrize("float_layer", LAYERS, ids=str)
@torch.no_grad()
def test_every_kernel_equals_the_reference_up_to_one_step(int8_triton, float_layer, epilogue):
    weight = torch.randint(-127, 128, float_layer.weight.shape, dtype=torch.int8)
    scales = torch.rand(len(weight)) / weight[0].numel() / 100
    layer = IntegerLayer(
        *(weight, scales, torch.randn(len(weight))),
        window=window_of_layer(float_layer),
        epilogue=epilogue,
    )
    shape = {2: (5, weight.shape[1]), 3: (3, weight.shape[1], 40)}.get(weight.dim())
    shape = shape or (3, weight.shape[1], 23, 18)
    x = torch.randint(-128, 128, shape, dtype=torch.int8)
    skip = torch.randint(-128, 128, layer(x).shape, dtype=torch.int8)
    skip = skip if epilogue.skip_scale else None
    expected = layer(x, skip)
    layer.cuda()
    given = x.cuda(), None if skip is None else skip.cuda()
    turn = (LAYERS.index(float_layer) + EPILOGUES.index(epilogue)) % 3
    triton = (int8_triton.TritonProduct(layer, tile) for tile in int8_triton.TILES[turn::3])
    for product in (IntMm(layer), *triton):
        layer.product = product
        found = layer(*given).cpu()
        difference = (found.double() - expected.double()).abs()
        if epilogue.code_scale:
            # The factors of a fused multiply-add are not rounded in between: ties may flip.
            assert float(difference.max()) <= 1, product
            assert float((difference > 0).double().mean()) < 1e-3, product
        else:
            assert float(difference.max()) <= 2e-3 * float(expected.abs().max()), product


@torch.no_grad()
def test_one_token_taken_out_of_each_sequence_is_read_right(int8_triton):
    weight = torch.randint(-127, 128, (64, 64), dtype=torch.int8)
    epilogue = Epilogue(real_type=torch.float32)
    layer = IntegerLayer(weight, torch.ones(64), None, window=Window(), epilogue=epilogue)
    x = torch.randint(-128, 128, (20, 5, 64), dtype=torch.int8)
    expected = layer(x[:, 1])
    layer.cuda()
    for product in (IntMm(layer), int8_triton.TritonProduct(layer, int8_triton.TILES[-1])):
        layer.product = product
        assert torch.equal(layer(x.cuda()[:, 1]).cpu(), expected), product


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_codes_in_one_pass_are_the_same_codes(int8_triton, dtype):
    x = torch.randn(3, 5, 7, 9).to(dtype)
    for layout in (torch.contiguous_format, torch.channels_last):
        given = x.contiguous(memory_format=layout)
        found = int8_triton.codes_in_one_pass(given.cuda(), 0.02)
        assert found.is_contiguous(memory_format=layout)
        assert torch.equal(found.cpu(), codes_of(given, 0.02))
