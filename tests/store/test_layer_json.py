"""Layers as JSON: made again with the same arguments, and nothing else can be made."""

import json

import pytest
import torch
from torch import nn

from kdeploy.errors import ModelError
from kdeploy.store.layer_json import (
    ALLOWED,
    construct_layer,
    describe_layer,
    is_plain,
    to_json,
    to_tuples,
)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv1d(4, 6, 3, stride=2, padding=1, dilation=2, groups=2, bias=False),
        nn.Conv2d(4, 6, (3, 1), padding="same"),
        nn.ConvTranspose2d(4, 6, 3, stride=2, output_padding=1),
        nn.Linear(3, 2),
        nn.BatchNorm2d(4, eps=1e-3, momentum=None, affine=False),
        nn.LayerNorm((4, 5), bias=False),
        nn.GroupNorm(2, 4),
        nn.InstanceNorm1d(3, affine=True),
        nn.Embedding(5, 3, padding_idx=1),
        nn.Hardtanh(-2.0, 2.0),
        nn.LeakyReLU(0.3, inplace=True),
        nn.PReLU(3, init=0.1),
        nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True),
        nn.AdaptiveAvgPool2d((1, None)),
        nn.AvgPool2d(2, count_include_pad=False),
        nn.Dropout(0.3),
        nn.Flatten(0),
        nn.Upsample(scale_factor=2.0, mode="bilinear"),
        nn.ZeroPad2d((1, 0, 1, 0)),
        nn.MultiheadAttention(8, 2, batch_first=True),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_a_layer_is_made_again_from_json(layer):
    again = construct_layer(json.loads(json.dumps(describe_layer("", layer))))
    assert repr(again) == repr(layer)
    assert type(again) is type(layer)
    again.load_state_dict(layer.state_dict())


def test_only_layers_of_torch_and_layers_on_codes_can_be_put_in():
    others = {n for n, k in ALLOWED.items() if not k.__module__.startswith("torch.nn.modules.")}
    assert others == {"BlockQuantizedEmbedding", "BlockQuantizedLinear"}


def test_a_layer_of_ones_own_is_refused_with_its_place():
    class Own(nn.Linear):
        pass

    with pytest.raises(ModelError, match=r"`stem\.0` became a .*Own"):
        describe_layer("stem.0", Own(2, 2))


def test_defaults_are_left_out():
    assert describe_layer("", nn.Conv2d(3, 4, 1)) == {
        "type": "Conv2d",
        "arguments": {"in_channels": 3, "out_channels": 4, "kernel_size": [1, 1]},
    }


def test_no_random_number_is_used_up():
    state = torch.get_rng_state()
    construct_layer({"type": "Linear", "arguments": {"in_features": 2, "out_features": 2}})
    assert torch.equal(torch.get_rng_state(), state)


def test_plain_values_are_what_json_holds():
    plain = [1, 0.5, True, None, "same", (1, (2, 3)), [1, [2]]]
    assert all(is_plain(value) for value in plain)
    other = [float("nan"), float("inf"), torch.ones(1), nn.ReLU(), {1: 2}, (1, print)]
    assert not any(is_plain(value) for value in other)
    assert to_json((1, (2, 3))) == [1, [2, 3]]
    assert to_tuples([1, [2, 3]]) == (1, (2, 3))
