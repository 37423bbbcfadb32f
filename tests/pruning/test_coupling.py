"""Units: which channels go together, found in nets whose answer is known by hand."""

import itertools

import pytest
import torch
from torch import nn

from kdeploy.pruning.choice import balance
from kdeploy.pruning.coupling import LayerDim, find_groups
from kdeploy.pruning.removal import all_channels, hide_channels, remove_channels
from kdeploy.pruning.tracing import traceable

NETS = ["Residual", "Concat", "Depthwise", "Grouped", "Shared", "Signal", "Mixed", "Table"]


def units_of(model, example, **options):
    with traceable(model):
        return find_groups(model, example, **options)


def layers(group):
    return {f"{layer_dim.layer} {layer_dim.side}" for layer_dim in group.channels}


def test_a_residual_sum_ties_both_sides(make, example):
    groups = units_of(make("Residual"), example)
    stream = {"stem out", "norm out", "inner in", "outer out", "down in"}
    inner = {"inner out", "outer in"}
    down = {"down out", "head in"}
    assert sorted(map(len, map(layers, groups))) == [2] * 56 + [5] * 16
    assert all(layers(group) in (stream, inner, down) for group in groups)
    assert all(
        set(group.channels.values()) == {group.channels[next(iter(group.channels))]}
        for group in groups
    )


def test_a_concatenation_shifts_and_a_split_ties_the_halves(make, example):
    groups = units_of(make("Concat"), example)
    assert len(groups) == 16
    for index, group in enumerate(
        sorted(groups, key=lambda u: u.channels[LayerDim("left", "out")])
    ):
        assert group.channels[LayerDim("left", "out")] == (index,)
        assert group.channels[LayerDim("right", "out")] == (index,)
        assert group.channels[LayerDim("mix", "in")] == (index, index + 16)
        assert group.channels[LayerDim("mix", "out")] == (index,)
        assert group.channels[LayerDim("head", "in")] == tuple(range(index * 16, index * 16 + 16))
        assert list(group.shares.values()) == [(1, 1)]


def test_a_depthwise_convolution_has_one_side(make, example):
    groups = units_of(make("Depthwise"), example)
    expanded = {"expand.0 out", "expand.1 out", "depthwise out", "point in"}
    gated = {"point out", "squeeze in", "excite out", "head in"}
    assert [layers(group) for group in groups].count(expanded) == 32
    assert [layers(group) for group in groups].count(gated) == 16
    assert [layers(group) for group in groups].count({"squeeze out", "excite in"}) == 8


def test_a_shuffle_moves_channels_and_keeps_groups_together(make, example):
    groups = units_of(make("Grouped"), example)
    shuffled = [group for group in groups if LayerDim("grouped", "out") in group.channels]
    assert len(shuffled) == 8
    for group in shuffled:
        rows = group.channels[LayerDim("grouped", "out")]
        assert [row % 8 for row in rows] == [rows[0]] * 4
        assert group.shares["grouped out"] == (1, 1, 1, 1)
        # The reference: torch's own shuffle of the channel numbers.
        order = nn.ChannelShuffle(4)(torch.arange(32.0).view(1, 32, 1, 1)).flatten().tolist()
        assert group.channels[LayerDim("depthwise", "out")] == tuple(
            place for place, channel in enumerate(order) if channel in rows
        )


def test_torchs_own_shuffle_is_followed_as_well(example):
    model = nn.Sequential(
        nn.Conv2d(3, 8, 1),
        nn.ChannelShuffle(2),
        nn.Conv2d(8, 5, 1),
        nn.Flatten(),
        nn.Linear(320, 2),
    )
    groups = [u for u in units_of(model, example) if LayerDim("0", "out") in u.channels]
    assert {u.channels[LayerDim("0", "out")]: u.channels[LayerDim("2", "in")] for u in groups} == {
        (0, 4): (0, 1),
        (1, 5): (2, 3),
        (2, 6): (4, 5),
        (3, 7): (6, 7),
    }


def test_a_module_that_runs_twice_ties_its_two_sides(make, example):
    groups = units_of(make("Shared"), example)
    twice = {"stem out", "twice in", "twice out", "scale dimension 0", "inner in"}
    assert [layers(group) for group in groups].count(twice) == 16


def test_what_is_added_to_the_input_stays(make, example):
    groups = units_of(make("Shared"), example)
    assert not any(LayerDim("back", "out") in group.channels for group in groups)


@pytest.mark.parametrize("name", [*NETS, "Tokens"])
def test_the_output_stays(make, example, name):
    groups = units_of(make(name), example)
    assert not any(LayerDim("head", "out") in group.channels for group in groups)


def test_attention_stays_and_the_block_after_it_goes(make, example):
    groups = units_of(make("Tokens"), example)
    stream = {
        "patches out",
        "query in",
        "key in",
        "value in",
        "project out",
        "norm out",
        "up in",
        "down out",
        "head in",
    }
    assert [layers(group) for group in groups].count({"up out", "down in"}) == 48
    assert [layers(group) for group in groups].count(stream) == 16
    assert len(groups) == 64


class Reduced(nn.Module):
    """A sum over groups of channels, and one over all of them, in the way of the channels."""

    def __init__(self):
        super().__init__()
        self.radix = nn.Conv2d(3, 16, 1)
        self.plain = nn.Conv2d(3, 8, 1)
        self.other = nn.Conv2d(3, 8, 1)
        self.where = nn.Conv2d(1, 1, 3, padding=1)
        self.head = nn.Conv2d(16, 5, 1)

    def forward(self, x):
        parts = self.radix(x)
        parts = parts.view(len(x), 2, 8, *parts.shape[2:]).sum(1) + self.plain(x)
        other = self.other(x)
        other = other * self.where(other.mean(1, keepdim=True)).sigmoid()
        return self.head(torch.cat([parts, other], 1)).mean((2, 3))


def test_sums_over_channels_freeze_what_they_meet_unless_they_are_broadcast(example):
    groups = units_of(Reduced().eval(), example)
    # The one channel of `where` meets channel 0: a family of one, of which one always stays.
    assert sorted(map(sorted, map(layers, groups))) == [
        *[["head in", "other out"]] * 7,
        ["head in", "other out", "where out"],
    ]


class Gated(nn.Module):
    """A gate of the largest and the mean channel, which lose their dimension and get it back."""

    def __init__(self):
        super().__init__()
        self.stem, self.gate = nn.Conv2d(3, 8, 1), nn.Conv2d(2, 1, 3, padding=1)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = self.stem(x)
        both = torch.cat([x.max(1)[0].unsqueeze(1), x.mean(1).unsqueeze(1)], 1)
        return self.head((x * self.gate(both).sigmoid()).mean((2, 3)))


def test_sums_over_channels_without_their_dimension_let_the_channels_go(example):
    groups = units_of(Gated().eval(), example)
    assert sum(LayerDim("stem", "out") in group.channels for group in groups) == 8


def test_a_split_by_sizes_of_an_attribute_changes_them(make, example):
    groups = units_of(make("Mixed"), example)
    split = [group for group in groups if LayerDim("stem", "out") in group.channels]
    sides = sorted(tuple(sorted(layers(group))) for group in split)
    assert sides == [
        *[("first in", "sizes.0 number", "stem out")] * 12,
        *[("second in", "sizes.1 number", "stem out")] * 8,
    ]
    assert {group.width for group in split} == {1}
    model = make("Mixed")
    remove_channels(model, all_channels([split[0], split[-1]]))
    assert model.sizes == [11, 7]


def test_a_split_by_sizes_of_the_code_stays(make, example):
    groups = units_of(make("Mixed"), example)
    assert not any(LayerDim("first", "out") in group.channels for group in groups)


def test_a_class_token_and_a_norm_of_maps_are_followed(make, example):
    groups = units_of(make("Vision"), example)
    stem = {"stem out", "norm out", "patches in"}
    stream = {"patches out", "token dimension 2", "up in", "down out", "head in"}
    inner = {"up out", "down in"}
    found = [layers(group) for group in groups]
    assert [found.count(sides) for sides in (stem, stream, inner)] == [16, 24, 32]
    assert len(found) == 72


def test_channels_that_meet_a_table_that_nobody_learns_stay(make, example):
    groups = units_of(make("Table"), example)
    assert not any(LayerDim("patches", "out") in group.channels for group in groups)
    assert any(LayerDim("up", "out") in group.channels for group in groups)


def test_protected_layers_stay_with_all_that_depends_on_them(make, example):
    groups = units_of(make("Residual"), example, is_protected=lambda name: name == "outer")
    assert all(
        layers(group) in ({"inner out", "outer in"}, {"down out", "head in"}) for group in groups
    )


def test_every_channel_is_in_one_unit_at_most(make, example):
    for name in NETS:
        seen = [
            (layer_dim, index)
            for group in units_of(make(name), example)
            for layer_dim, indices in group.channels.items()
            for index in indices
        ]
        assert len(seen) == len(set(seen))


@pytest.mark.parametrize("name", NETS)
def test_any_removal_computes_what_the_full_model_does_when_nobody_reads_them(make, example, name):
    model = make(name)
    groups = balance(groups := units_of(model, example), [0.0] * len(groups))
    assert groups
    for start, step in itertools.product((0, 1), (2, 3)):
        # Any choice but all of a family: here every second or third of each.
        families = {}
        for group in groups:
            families.setdefault(group.family, []).append(group)
        gone = all_channels([u for f in families.values() for u in f[start::step] if len(f) > 1])
        narrow = make(name)
        remove_channels(narrow, gone)
        with torch.no_grad():
            expected = hide_channels(model, gone)(example)
            torch.testing.assert_close(narrow(example), expected, rtol=1e-4, atol=1e-5)
            assert not torch.allclose(model(example), expected)


def test_a_model_that_cannot_run_says_so(make):
    from kdeploy.errors import ModelError

    with pytest.raises(ModelError, match="cannot run on"):
        units_of(make("Residual"), torch.zeros(2, 4, 8, 8))
