"""Operations between layers, as autograd names them."""

import pytest
import torch
from torch_pruning.ops import OPTYPE

from kdeploy.pruning.operations import (
    dimension,
    joins_channels,
    operation,
    shape_given,
    shape_made,
    split_sizes,
)


class Node:
    """What torch-pruning's node has, for one operation."""

    def __init__(self, result, kind=OPTYPE.ELEMENTWISE):
        self.grad_fn, self.type = result.grad_fn, kind


@pytest.fixture
def x():
    return torch.randn(2, 4, 6, 6, requires_grad=True) * 1


def test_names_are_without_dimensions_and_version(x):
    pooled = torch.nn.functional.max_pool2d(x, 2)
    assert operation(Node(pooled)) == "MaxPool"
    assert operation(Node(x.relu())) == "Relu"


def test_shapes_are_those_before_and_after(x):
    node = Node(x.flatten(2))
    assert (shape_given(node), shape_made(node)) == ((2, 4, 6, 6), (2, 4, 36))


def test_dimensions_are_counted_from_the_start(x):
    node = Node(x.transpose(-1, 1))
    saved = node.grad_fn._saved_dim0, node.grad_fn._saved_dim1
    assert [dimension(d, x.shape) for d in saved] == [3, 1]


def test_a_split_has_the_channels_of_its_parts_only_where_it_parts_them(x):
    assert split_sizes(Node(x.split([1, 3], 1)[0]), axis=1) == [1, 3]
    assert split_sizes(Node(x.split([1, 5], -1)[0]), axis=1) == []
    assert split_sizes(Node(x.split([1, 5], -1)[0]), axis=3) == [1, 5]
    assert split_sizes(Node(x.split([1, 3], 1)[0]), axis=None) == []


def test_a_concatenation_joins_channels_or_positions(x):
    assert joins_channels(Node(torch.cat([x, x], -3)), axis=1)
    assert not joins_channels(Node(torch.cat([x, x], 2)), axis=1)
