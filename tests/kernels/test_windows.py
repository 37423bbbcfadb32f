from __future__ import annotations

import pytest
import torch
from torch import nn

from kdeploy.kernels.windows import (
    as_given,
    channels_last,
    columns,
    positions_of,
    rows_of,
    window_of_layer,
)

LAYERS = [
    nn.Linear(5, 7),
    nn.Conv1d(3, 4, 3, stride=2, padding=1),
    nn.Conv1d(3, 4, 5, dilation=2, padding="same"),
    nn.Conv2d(4, 6, 1),
    nn.Conv2d(4, 6, 1, stride=2),
    nn.Conv2d(3, 5, 3, stride=2, padding=1),
    nn.Conv2d(3, 5, (3, 2), stride=(1, 3), padding=(2, 0), dilation=(2, 1)),
    nn.Conv2d(3, 5, 3, padding="valid"),
]


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_a_layer_is_the_product_of_its_columns_and_its_rows(layer):
    inputs = layer.weight.shape[1]
    num_positions = positions_of(layer.weight)
    x = torch.randn(2, *((inputs, 11, 9)[: num_positions + 1] if num_positions else (3, inputs)))
    window = window_of_layer(layer)
    images = channels_last(x, num_positions)
    product = columns(images, window) @ rows_of(layer.weight).t() + layer.bias
    output = product.view(len(images), *window.outputs(images.shape[1:3]), -1)
    torch.testing.assert_close(as_given(output, x, num_positions), layer(x))


def test_a_pointwise_kernel_copies_nothing():
    x = torch.randn(2, 4, 5, 3).to(memory_format=torch.channels_last)
    read = columns(channels_last(x, 2), window_of_layer(nn.Conv2d(4, 6, 1)))
    assert read.data_ptr() == x.data_ptr()


def test_one_token_taken_out_of_each_sequence_is_copied():
    tokens = torch.randn(3, 5, 4)
    assert not tokens[:, 0].is_contiguous()
    assert channels_last(tokens[:, 0], 0).is_contiguous()
    assert channels_last(tokens, 0).data_ptr() == tokens.data_ptr()


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 4, 3, groups=2),
        nn.Conv2d(4, 4, 2, padding="same"),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"),
        nn.Conv3d(4, 4, 3),
        nn.ConvTranspose2d(4, 4, 3),
        nn.Bilinear(4, 4, 4),
    ],
    ids=str,
)
def test_what_is_no_such_product_has_no_window(layer):
    assert window_of_layer(layer) is None
