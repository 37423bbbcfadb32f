"""Channels are followed by their dimension; sizes that happen to be equal decide nothing."""

import copy
from functools import partial

import pytest
import torch
from torch import nn

from kdeploy.pruning.axes import reshaped
from kdeploy.pruning.coupling import find_groups
from kdeploy.pruning.removal import all_channels, remove_checked
from kdeploy.pruning.tracing import trace, traceable

TRACKED = {"track_running_stats": True}
SIZE = 8  # of everything, so that a guess by size is wrong
PARAMETERS = {
    "map": ((1, SIZE, SIZE, SIZE), lambda x, p: x + p),
    "rows": ((1, SIZE, SIZE, 1), lambda x, p: x * p),
    "columns": ((SIZE, 1, SIZE), lambda x, p: x * p),
    "expanded": ((1, SIZE, 1, 1), lambda x, p: p.expand_as(x) + x),
    "expanded map": ((SIZE, SIZE, SIZE), lambda x, p: p.expand(len(x), -1, -1, -1) * x),
    "viewed": ((SIZE,), lambda x, p: x * p.view(1, -1, 1, 1)),
    "indexed": ((SIZE,), lambda x, p: x * p[:, None, None]),
    "last": ((SIZE,), lambda x, p: (x.permute(0, 2, 3, 1) * p).permute(0, 3, 1, 2)),
    "last map": (
        (SIZE, SIZE, SIZE),
        lambda x, p: (x.permute(0, 2, 3, 1) + p).movedim(-1, 1),
    ),
    "turned": ((SIZE, SIZE), lambda x, p: x * p.t()[..., None]),
    "tokens": (
        (1, SIZE * SIZE, SIZE),
        lambda x, p: (x.flatten(2).transpose(1, 2) + p).transpose(1, 2).view_as(x),
    ),
}
DIMENSIONS = dict.fromkeys(PARAMETERS, 1) | {
    **dict.fromkeys(("columns", "expanded map", "viewed", "indexed", "last"), 0),
    **dict.fromkeys(("last map", "tokens"), 2),
}


class Raw(nn.Module):
    """A parameter that belongs to no layer, between two convolutions."""

    def __init__(self, shape, function):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, SIZE, 1), nn.Conv2d(SIZE, SIZE, 1)
        self.own = nn.Parameter(1 + torch.rand(shape))
        self.head, self.function = nn.Linear(SIZE, 4), function

    def forward(self, x):
        x = self.function(torch.relu(self.first(x)), self.own)
        return self.head(torch.relu(self.second(x)).mean((2, 3)))


def halved(model, x):
    """Return a copy with half of every family gone, and how far its outputs moved."""
    with traceable(model):
        groups = find_groups(model, x)
        families = {}
        for group in groups:
            families.setdefault(group.family, []).append(group)
        gone = [u for members in families.values() for u in members[: len(members) // 2]]
        small = copy.deepcopy(model)
        return small, remove_checked(small, all_channels(gone), x)


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_parameter_without_a_layer_is_cut_along_its_channels(name):
    torch.manual_seed(0)
    model = Raw(*PARAMETERS[name]).eval()
    small, moved = halved(model, torch.randn(2, 3, SIZE, SIZE))
    expected = list(model.own.shape)
    expected[DIMENSIONS[name]] //= 2
    assert list(small.own.shape) == expected
    assert moved < 1e-5
    assert small.first.out_channels == small.second.out_channels == SIZE // 2


def test_a_parameter_for_all_channels_alike_stays_and_they_go():
    torch.manual_seed(0)
    model = Raw((1, 1, SIZE, SIZE), lambda x, p: x * p).eval()
    small, moved = halved(model, torch.randn(2, 3, SIZE, SIZE))
    assert small.own.shape == model.own.shape
    assert moved < 1e-5
    assert small.first.out_channels == SIZE // 2


class SignalTokens(nn.Module):
    """Tokens (batch, length, channels) that one convolution over time makes."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv1d(3, SIZE, 1)
        self.norm, self.up = nn.LayerNorm(SIZE), nn.Linear(SIZE, 2 * SIZE)
        self.down, self.head = nn.Linear(SIZE, SIZE), nn.Linear(SIZE, 4)
        self.position = nn.Parameter(torch.rand(1, SIZE, SIZE))

    def forward(self, x):
        x = torch.relu(self.stem(x)).transpose(1, 2) + self.position
        a, b = self.up(self.norm(x)).chunk(2, -1)
        return self.head((x + self.down(a * torch.sigmoid(b))).mean(1))


def test_a_convolution_over_time_leaves_tokens_tokens():
    torch.manual_seed(0)
    small, _ = halved(SignalTokens().eval(), torch.randn(2, 3, SIZE))
    assert small.up.out_features == SIZE  # even halves of each part
    assert small.down.in_features == SIZE // 2
    assert small.stem.out_channels == SIZE // 2
    assert small.position.shape == (1, SIZE, SIZE // 2)


class Mixer(nn.Module):
    """Layers over positions stand between those over channels (arXiv:2105.01601)."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(3, SIZE)
        self.over, self.back = nn.Linear(SIZE, 6), nn.Linear(6, SIZE)
        self.up, self.down = nn.Linear(SIZE, 12), nn.Linear(12, SIZE)
        self.head = nn.Linear(SIZE, 4)

    def forward(self, x):
        x = self.stem(x)
        x = x + self.back(torch.relu(self.over(x.transpose(1, 2)))).transpose(1, 2)
        return self.head((x + self.down(torch.relu(self.up(x)))).mean(1))


def test_layers_over_positions_are_not_taken_for_layers_over_channels():
    torch.manual_seed(0)
    small, moved = halved(Mixer().eval(), torch.randn(2, SIZE, 3))
    assert moved < 1e-5
    assert (small.over.in_features, small.back.out_features) == (SIZE, SIZE)
    assert (small.over.out_features, small.up.out_features) == (3, 6)


def test_a_layer_norm_over_positions_has_no_channels():
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(3, SIZE, 1), nn.LayerNorm([SIZE, SIZE]), nn.Conv2d(SIZE, SIZE, 1)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(SIZE, 4)),
    ).eval()
    small, moved = halved(model, torch.randn(2, 3, SIZE, SIZE))
    assert small[1].weight.shape == (SIZE, SIZE)
    assert (small[0].out_channels, small[2].out_channels) == (SIZE, SIZE // 2)
    assert moved < 1e-5


NORMS = {
    "instance": (nn.Conv2d, nn.InstanceNorm2d),
    "instance, affine": (nn.Conv2d, partial(nn.InstanceNorm2d, affine=True)),
    "instance, tracked": (nn.Conv2d, partial(nn.InstanceNorm2d, affine=True, **TRACKED)),
    "instance of series": (nn.Conv1d, partial(nn.InstanceNorm1d, affine=True, **TRACKED)),
    "instance of clips": (nn.Conv3d, partial(nn.InstanceNorm3d, affine=True)),
    "batch": (nn.Conv2d, partial(nn.BatchNorm2d, track_running_stats=False)),
    "batch, not affine": (nn.Conv2d, partial(nn.BatchNorm2d, affine=False)),
    "batch of clips": (nn.Conv3d, nn.BatchNorm3d),
}


@pytest.mark.parametrize("name", NORMS)
def test_norms_of_every_setting_get_narrower_with_their_channels(name):
    convolution, norm = NORMS[name]
    shape = (2, 3, *(6,) * {nn.Conv1d: 1, nn.Conv2d: 2, nn.Conv3d: 3}[convolution])
    torch.manual_seed(0)
    model = nn.Sequential(
        *(convolution(3, SIZE, 3, padding=1), norm(SIZE), nn.ReLU()),
        *(convolution(SIZE, SIZE, 3, padding=1), norm(SIZE), nn.Flatten()),
        nn.Linear(SIZE * shape[-1] ** (len(shape) - 2), 4),
    )
    with torch.no_grad():
        model.train()(3 * torch.randn(shape) + 1)
    for layer in (model[1], model[4]):
        if layer.weight is not None:
            nn.init.normal_(layer.weight)
            nn.init.normal_(layer.bias)
    small, moved = halved(model.eval(), torch.randn(shape))
    assert (small[0].out_channels, small[3].out_channels) == (SIZE // 2, SIZE // 2)
    assert small[1].num_features == SIZE // 2
    assert all(
        len(tensor) == SIZE // 2 for tensor in small[1].state_dict().values() if tensor.dim()
    )
    assert moved < 1e-5


def test_every_dimension_of_a_network_is_known_where_channels_pass(make, example):
    for name in ("Residual", "Concat", "Depthwise", "Grouped", "Mixed", "Vision"):
        model = make(name)
        with traceable(model):
            graph = trace(model, example)
        torn = [pair for pair in graph.axes.pairs if graph.axes.is_torn(*pair)]
        assert torn == [], name


@pytest.mark.parametrize(
    ("given", "made", "kept"),
    [
        ((2, 8, 4, 4), (2, 8, 16), {(0, 0), (1, 1)}),
        ((2, 9, 8), (18, 8), {(2, 1)}),
        ((2, 8, 8), (2, 8, 2, 4), {(0, 0), (1, 1)}),
        ((2, 4, 4), (4, 2, 4), {(2, 2)}),
        ((8,), (1, 8, 1, 1), {(0, 1)}),
        ((2, 1, 4, 4), (2, 1, 16), {(0, 0), (1, 1)}),
    ],
)
def test_a_reshape_keeps_a_dimension_of_the_same_size_at_the_same_place(given, made, kept):
    assert reshaped(given, made) == kept


def test_a_flattened_dimension_is_in_the_one_that_is_left():
    assert {(1, 1), (2, 1), (3, 1)} <= reshaped((2, 8, 4, 4), (2, 128))
    assert {(1, 1), (1, 2), (1, 3)} <= reshaped((2, 128), (2, 8, 4, 4))
