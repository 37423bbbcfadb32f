from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from kdeploy.torch_module.block_quantized import BlockQuantizedLinear, with_rounded_inputs


@pytest.mark.parametrize("block_size", [0, 16])
@pytest.mark.parametrize("has_half_scales", [False, True])
def test_rounded_inputs_are_those_of_numpy(block_size, has_half_scales):
    model = nn.Sequential(BlockQuantizedLinear(48, 8, False, 4, 32, True))
    generator = torch.Generator().manual_seed(0)
    model[0].codes.copy_(torch.randint(0, 256, model[0].codes.shape, generator=generator))
    model[0].scales.fill_(0.1)
    x = torch.randn((3, 48), generator=generator)
    twin = with_rounded_inputs(model, block_size=block_size, has_half_scales=has_half_scales)
    expected = []
    size = block_size or 32
    for row in x.numpy():
        rounded = []
        for start in range(0, 48, size):
            some = row[start : start + size]
            scale = np.abs(some).max() / np.float32(127)
            kept = np.float32(np.float16(scale)) if has_half_scales else scale
            rounded.append(np.round(some / scale) * kept)
        expected.append(model[0].weight.numpy() @ np.concatenate(rounded))
    np.testing.assert_allclose(twin(x).numpy(), expected, rtol=1e-4, atol=1e-4)
    assert not torch.equal(twin(x), model(x))
