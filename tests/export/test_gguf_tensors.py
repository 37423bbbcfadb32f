"""Blocks of codes and rows of heads, against the library's own reading of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kdeploy.errors import ModelError
from kdeploy.export.gguf_tensors import blocks_of
from kdeploy.torch_module.block_quantized import BlockQuantizedLinear, packed

gguf = pytest.importorskip("gguf", reason="pip install 'kdeploy[language]'")


def layer(bits, block_size, *, columns=256, symmetric=True):
    made = BlockQuantizedLinear(columns, 24, False, bits, block_size, symmetric)
    random = torch.Generator().manual_seed(0)
    blocks = -(-columns // block_size)
    codes = torch.randint(0, 2**bits, (24, blocks, block_size), generator=random)
    made.codes.copy_(packed(codes, bits))
    made.scales.copy_(torch.rand((24, blocks), generator=random) + 0.01)
    if not symmetric:
        points = torch.randint(0, 2**bits, (24, blocks), generator=random)
        made.zero_points.copy_(packed(points, bits))
    return made


@pytest.mark.parametrize("block_size", [32, 64, 128])
@pytest.mark.parametrize(("bits", "form"), [(4, "Q4_0"), (8, "Q8_0")])
def test_symmetric_codes_are_read_as_the_very_numbers(bits, form, block_size):
    made = layer(bits, block_size)
    found, called = blocks_of("x", made)
    assert called == form
    read = gguf.dequantize(found, getattr(gguf.GGMLQuantizationType, form))
    np.testing.assert_array_equal(read, made.weight.numpy())


def test_zero_points_become_offsets_as_exact_as_float16_is():
    made = layer(4, 64, symmetric=False)
    found, called = blocks_of("x", made)
    assert called == "Q4_1"
    read = gguf.dequantize(found, gguf.GGMLQuantizationType.Q4_1)
    scale = float(made.scales.max())
    np.testing.assert_allclose(read, made.weight.numpy(), atol=15 * scale * 2**-11)


def test_columns_that_were_filled_up_are_cut_off():
    made = layer(4, 128, columns=96)
    found, _ = blocks_of("x", made)
    assert found.shape == (24, 96 // 32 * 18)
    read = gguf.dequantize(found, gguf.GGMLQuantizationType.Q4_0)
    np.testing.assert_array_equal(read, made.weight.numpy())


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (layer(4, 16), "blocks of 16"),
        (layer(4, 32, columns=40), "40 columns"),
        (layer(8, 32, symmetric=False), "zero points"),
    ],
)
def test_what_has_no_place_is_refused_with_the_layers_name(made, reason):
    with pytest.raises(ModelError, match=f"`lm_head`.*{reason}") as caught:
        blocks_of("lm_head", made)
    assert "int4_weights" in caught.value.hint
