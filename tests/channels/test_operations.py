"""Operations between layers, as autograd names them."""

import pytest
import torch
from torch.nn import functional as F
from torch_pruning.ops import OPTYPE

from kdeploy.channels.operations import (
    channel_dimension,
    is_explained,
    is_flattening,
    operation,
    reduces_channels,
    shape_given,
    shape_made,
)


class Node:
    """What torch-pruning's node has, for one operation."""

    def __init__(self, result, kind=OPTYPE.ELEMENTWISE):
        self.grad_fn, self.type, self.outputs = result.grad_fn, kind, []


@pytest.fixture
def x():
    return torch.randn(2, 4, 6, 6, requires_grad=True) * 1


HARMLESS = {
    "Relu": F.relu,
    "Hardtanh": F.relu6,
    "Hardswish": F.hardswish,
    "Gelu": F.gelu,
    "Silu": F.silu,
    "MaxPool": lambda x: F.max_pool2d(x, 2),
    "AvgPool": lambda x: F.avg_pool2d(x, 2),
    "Mean": lambda x: F.adaptive_avg_pool2d(x, 1),
    "AdaptiveMaxPool": lambda x: F.adaptive_max_pool2d(x, 1),
    "UpsampleNearest": lambda x: F.interpolate(x, scale_factor=2.0),
    "UpsampleBilinear": lambda x: F.interpolate(x, scale_factor=2.0, mode="bilinear"),
    "ConstantPad": lambda x: F.pad(x, (1, 1, 1, 1)),
    "ReflectionPad": lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"),
    "Add": lambda x: x + x,
    "Div": lambda x: x / 2,
    "Clone": lambda x: x.clone(),
}
MIXING = {
    "PixelShuffle": lambda x: F.pixel_shuffle(x, 2),
    "Index": lambda x: x[:, [1, 0]],
    "Roll": lambda x: x.roll(1, 1),
    "Cumsum": lambda x: x.cumsum(1),
    "Repeat": lambda x: x.repeat(1, 2, 1, 1),
    "Glu": lambda x: F.glu(x, 1),
    "Im2Col": lambda x: F.unfold(x, 3),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_what_treats_channels_alike_is_explained(x, name):
    node = Node(HARMLESS[name](x))
    assert operation(node) == name
    assert is_explained(node, is_tokens=True)


@pytest.mark.parametrize("name", MIXING)
def test_what_mixes_channels_is_not(x, name):
    node = Node(MIXING[name](x))
    assert operation(node) == name
    assert not is_explained(node, is_tokens=True)


@pytest.mark.parametrize(
    ("given", "made", "clear"),
    [
        ((2, 8, 4, 4), (2, 128), True),  # a flattened map
        ((2, 128), (2, 8, 4, 4), True),
        ((2, 8, 4, 4), (2, 8, 16), True),  # positions in a row
        ((2, 9, 8), (18, 8), True),  # rows of tokens
        ((2, 9, 8), (2, 9, 2, 4), False),  # heads
        ((2, 8, 4, 4), (2, 2, 4, 4, 4), False),  # groups
        ((2, 8, 4, 4), (16, 16), False),
    ],
)
def test_reshapes_are_explained_by_their_shapes(given, made, clear):
    result = (torch.zeros(given, requires_grad=True) * 1).view(made)
    node = Node(result, OPTYPE.RESHAPE)
    assert (shape_given(node), shape_made(node)) == (given, made)
    assert is_explained(node, is_tokens=True) is clear


def test_a_slice_is_explained_unless_it_cuts_channels(x):
    assert is_explained(Node(x[:, :, 1:], OPTYPE.SLICE), is_tokens=True)
    assert is_explained(Node(x[:, :, :, :-1], OPTYPE.SLICE), is_tokens=True)
    assert not is_explained(Node(x[:, 1:], OPTYPE.SLICE), is_tokens=True)
    tokens = x.flatten(2)
    assert not is_explained(Node(tokens[:, 1:], OPTYPE.SLICE), is_tokens=False)
    assert is_explained(Node(tokens[:, 1:], OPTYPE.SLICE), is_tokens=True)


def test_one_token_is_taken_of_tokens_only(x):
    assert is_explained(Node(x.flatten(2)[:, 0]), is_tokens=True)
    assert not is_explained(Node(x.flatten(2)[:, 0]), is_tokens=False)
    assert not is_explained(Node(x[:, 0]), is_tokens=True)


def test_only_even_splits_are_explained(x):
    assert is_explained(Node(x.chunk(2, 1)[0], OPTYPE.SPLIT), is_tokens=True)
    assert not is_explained(Node(x.split([1, 3], 1)[0], OPTYPE.SPLIT), is_tokens=True)
    assert is_explained(Node(x.split([1, 5], 2)[0], OPTYPE.SPLIT), is_tokens=True)


def test_only_sums_over_the_channels_of_maps_are_reductions(x):
    assert reduces_channels(Node(x.mean(1, keepdim=True)))
    assert reduces_channels(Node(x.max(1)[0]))
    assert reduces_channels(Node(x.sum(-3)))
    assert not reduces_channels(Node(x.mean((2, 3))))
    assert not reduces_channels(Node(x.mean((1, 2))))  # positions of (batch, y, x, channels)
    assert not reduces_channels(Node(x.flatten(2).mean(1)))  # tokens
    assert not reduces_channels(Node(x.relu()))


def test_channels_of_three_dimensions_depend_on_the_kind_of_model():
    assert channel_dimension((2, 9, 8), is_tokens=True) == 2
    assert channel_dimension((2, 9, 8), is_tokens=False) == 1
    assert channel_dimension((2, 9, 8, 8), is_tokens=True) == 1


def test_flattening_has_two_dimensions_on_one_side():
    assert is_flattening((2, 3, 4), (2, 12))
    assert is_flattening((2, 12), (2, 3, 4))
    assert not is_flattening((2, 12), (2, 12))
    assert not is_flattening((2, 3, 4), (6, 4))
