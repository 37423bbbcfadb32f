"""Heads and their width: removed for good, and the rest computes what it did."""

import json

import pytest
import torch

from kdeploy.pruning.coupling import LayerDim, find_groups
from kdeploy.pruning.removal import all_channels, check_sizes, remove_checked
from kdeploy.pruning.tracing import traceable
from kdeploy.store.structure import difference, replay
from tests.pruning.attentions import (
    HEADS,
    WIDTH,
    Apart,
    Default,
    Fixed,
    Fused,
    Normed,
    Own,
    example,
    make,
)


def units_of(model, **options):
    with traceable(model):
        groups = find_groups(model, example(), **options)
    return [
        group for group in groups if any(layer_dim.side == "in" for layer_dim in group.channels)
    ]


def heads_of(model, **options):
    return [u for u in units_of(model, **options) if len(u.channels) > 2]


@pytest.mark.parametrize(
    ("kind", "part"), [(Fused, "heads"), (Fused, "width"), (Default, "heads"), (Default, "width")]
)
def test_what_is_left_computes_what_the_whole_does_without_them(kind, part):
    model = make(kind)
    groups = heads_of(model, attention=part)
    assert len(groups) == (HEADS if part == "heads" else WIDTH)
    moved = remove_checked(model, all_channels(groups[1:3]), example())
    assert moved < 1e-4
    check_sizes(model)
    left = HEADS * WIDTH - 2 * (WIDTH if part == "heads" else HEADS)
    assert sorted(layer.shape[0] for layer in model.attention.state_dict().values())[-1] == 3 * left


def test_a_head_has_its_channels_in_each_layer():
    group = heads_of(make(Fused))[1]
    rows = tuple(start + i for start in (0, 24, 48) for i in range(8, 16))
    assert group.channels == {
        LayerDim("attention.attn_dim", "number"): tuple(range(8, 16)),
        LayerDim("attention.num_heads", "number"): (1,),
        LayerDim("attention.proj", "in"): tuple(range(8, 16)),
        LayerDim("attention.qkv", "out"): rows,
    }
    assert group.width == WIDTH


def test_attributes_follow():
    model = make(Fused)
    remove_checked(model, all_channels(heads_of(model)[:1]), example())
    attention = model.attention
    assert (attention.num_heads, attention.head_dim, attention.attn_dim) == (2, 8, 16)
    remove_checked(model, all_channels(heads_of(model, attention="width")[:3]), example())
    assert (attention.num_heads, attention.head_dim, attention.attn_dim) == (2, 5, 10)
    assert attention.scale == WIDTH**-0.5


def test_the_scale_that_torch_takes_by_itself_is_made_up_for():
    model = make(Default)
    groups = heads_of(model, attention="width")
    sides = {layer_dim.side for layer_dim in groups[0].channels}
    assert sides == {"out", "in", "scaled product", "unscaled"}
    # Heads are innermost, and their number is an attribute: the width follows by itself.
    assert remove_checked(model, all_channels(groups[::2]), example()) < 1e-4
    assert model.attention.to_out.in_features == HEADS * WIDTH // 2


def test_where_heads_cannot_go_their_width_does():
    model = make(Apart)
    skipped = {}
    groups = heads_of(model, skipped=skipped)
    assert len(groups) == WIDTH
    assert skipped == {}
    assert remove_checked(model, all_channels(groups[:4]), example()) < 1e-4
    assert model.attention.attention_head_size == 4
    assert model.attention.all_head_size == 12


@pytest.mark.parametrize(
    ("kind", "module", "reason"),
    [
        (Fixed, "attention", "cannot run"),
        (Normed, "attention", "layer_norm"),
        (Own, "attention.inner", "torch's own"),
    ],
)
def test_what_cannot_be_shown_to_stay_right_stays_whole(kind, module, reason):
    skipped = {}
    assert heads_of(make(kind), skipped=skipped) == []
    assert list(skipped) == [module]
    assert reason in skipped[module]


def test_protected_heads_stay():
    skipped = {}
    protected = {"is_protected": lambda name: name == "attention.qkv", "skipped": skipped}
    assert heads_of(make(Fused), **protected) == []
    assert skipped == {"attention": "`ignore` names it"}


def test_edits_make_the_same_attention_again():
    model = make(Fused)
    remove_checked(model, all_channels(heads_of(model)[:1]), example())
    edits = json.loads(json.dumps(difference(make(Fused), model)))
    loaded = replay(make(Fused), edits)
    loaded.load_state_dict(model.state_dict())
    assert torch.equal(loaded(example()), model(example()))
    assert {"path": "attention", "attributes": {"num_heads": 2, "attn_dim": 16}} in edits
