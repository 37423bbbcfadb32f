"""Which operations the channels of a layer can be followed through, in the graphs of models."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from kdeploy.pruning.explained import is_explained, reduces_channels
from kdeploy.pruning.operations import operation
from kdeploy.pruning.tracing import trace, traceable


class Between(nn.Module):
    """A layer, an operation, and what makes a result of it."""

    def __init__(self, function, layer):
        super().__init__()
        self.layer, self.function = layer, function

    def forward(self, x):
        return self.function(self.layer(x)).flatten(1).sum(1, keepdim=True) * 2


class Turned(nn.Module):
    def forward(self, x):
        return x.transpose(1, 2)


MAPS = (lambda: nn.Conv2d(3, 4, 1), (2, 3, 6, 6))
SERIES = (lambda: nn.Conv1d(3, 4, 1), (2, 3, 9))
TOKENS = (lambda: nn.Sequential(nn.Conv1d(3, 4, 1), Turned()), (2, 3, 9))


def seen(function, name, kind=MAPS):
    """Return whether the first node of that name is explained, and whether it sums channels."""
    layer, shape = kind
    model = Between(function, layer()).eval()
    with traceable(model):
        graph = trace(model, torch.randn(shape))
    node = [n for n in graph.nodes if operation(n) == name][-1]
    return is_explained(node, graph.axes), reduces_channels(node, graph.axes)


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
def test_what_treats_channels_alike_is_explained(name):
    assert seen(HARMLESS[name], name) == (True, False)


@pytest.mark.parametrize("name", MIXING)
def test_what_mixes_channels_is_not(name):
    assert seen(MIXING[name], name) == (False, False)


@pytest.mark.parametrize(
    ("function", "name", "kind", "clear"),
    [
        (lambda x: x.flatten(2), "View", MAPS, True),  # positions in a row
        (lambda x: x.reshape(-1, 6, 6), "View", MAPS, False),
        (lambda x: x.view(2, 2, 2, 6, 6), "View", MAPS, False),  # groups
        (lambda x: x.view(2, 9, 2, 2), "View", TOKENS, False),  # heads
        (lambda x: x[:, 1:], "Slice", MAPS, False),
        (lambda x: x[:, :, 1:], "Slice", MAPS, True),
        (lambda x: x[:, 1:], "Slice", SERIES, False),
        (lambda x: x[:, :, 1:], "Slice", SERIES, True),
        (lambda x: x[:, 1:], "Slice", TOKENS, True),
        (lambda x: x[:, 0], "Select", TOKENS, True),
        (lambda x: x[:, 0], "Select", SERIES, False),
        (lambda x: x.permute(0, 2, 3, 1)[:, 0], "Select", MAPS, True),
        (lambda x: x.chunk(2, 1)[0], "Split", MAPS, True),
        (lambda x: x.split([1, 3], 1)[0], "SplitWithSizes", MAPS, False),
        (lambda x: x.split([1, 5], 2)[0], "SplitWithSizes", MAPS, True),
        (lambda x: x.split([1, 3], -1)[0], "SplitWithSizes", TOKENS, False),
    ],
)
def test_the_dimension_decides_and_not_the_shape(function, name, kind, clear):
    assert seen(function, name, kind)[0] is clear


@pytest.mark.parametrize(
    ("function", "name", "kind", "sums"),
    [
        (lambda x: x.mean(1, keepdim=True), "Mean", MAPS, True),
        (lambda x: x.max(1)[0], "Max", MAPS, True),
        (lambda x: x.sum(-3), "Sum", MAPS, True),
        (lambda x: x.mean((2, 3)), "Mean", MAPS, False),
        (lambda x: x.permute(0, 2, 3, 1).mean((1, 2)), "Mean", MAPS, False),
        (lambda x: x.mean(1), "Mean", TOKENS, False),
        (lambda x: x.mean(2), "Mean", TOKENS, True),
        (lambda x: x.mean(1), "Mean", SERIES, True),
        (lambda x: x.relu(), "Relu", MAPS, False),
    ],
)
def test_sums_over_the_channels_are_reductions(function, name, kind, sums):
    assert seen(function, name, kind)[1] is sums
