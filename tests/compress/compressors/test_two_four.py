"""Two of four on whole networks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kdeploy.compress.compressors.prune_channels import prune_channels
from kdeploy.compress.compressors.two_four import two_four
from kdeploy.compress.contract import CompressContext
from kdeploy.compress.run import compress
from kdeploy.errors import ModelError, UnknownName
from kdeploy.sparsity.pattern import check_two_four, held_groups, two_four_layers
from kdeploy.sparsity.zeros import HeldZeros, sparse_weights
from kdeploy.store.model_io import load_model
from kdeploy.training.config import TrainingConfig
from kdeploy.training.fit import FitContext, Supervised, fit

WIDE = ("blocks.0.conv1", "blocks.0.conv2", "blocks.1.conv1", "blocks.1.conv2", "blocks.1.shortcut")


@pytest.fixture
def context(tiny_data):
    return CompressContext(data=tiny_data)


@pytest.fixture
def wide(tiny_model):
    return tiny_model(width=16)


def test_keeps_two_of_four_where_the_shapes_allow(wide, context):
    result = two_four(wide, context)
    assert two_four_layers(result) == WIDE
    for name in WIDE:
        given, kept = wide.get_submodule(name).weight, result.get_submodule(name).weight
        # Along the input channels: (outputs, kernel, groups, four).
        fours = given.detach().movedim(1, -1).unflatten(-1, (-1, 4)).abs()
        third = fours.sort(-1).values[..., 2:3]
        expected = torch.where(fours >= third, 1, 0).flatten(-2).movedim(-1, 1)
        assert torch.equal(kept.detach(), given.detach() * expected)


def test_lists_what_stays_dense_with_its_reason(wide, context):
    two_four(wide, context, ignore=("blocks.0.*",))
    listed = {row["layer"]: row["reason"] for row in context.report["kept_dense"]}
    assert listed == {
        "stem": "1 inputs, no multiple of 16",
        "blocks.0.conv1": "named in `ignore`",
        "blocks.0.conv2": "named in `ignore`",
        "depthwise": "depthwise: one input channel for each output",
        "head": "4 outputs, no multiple of 16",
    }
    assert [row["layer"] for row in context.report["two_four"]] == list(WIDE[2:])
    assert "may gain nothing" in context.report["two_four"][0]["note"]
    shares = {row["layer"]: row["sparsity"] for row in context.report["sparsity"]}
    assert shares["blocks.1.conv2"] == 0.5
    assert shares["head"] == 0


def test_surgery_moves_the_outputs_less_than_wanda(wide, context):
    errors = {}
    for method in ("wanda", "sparse_gpt"):
        result = two_four(wide, context, method=method, batches=3)
        assert two_four_layers(result) == WIDE
        errors[method] = [row["output_error"] for row in context.report["two_four"]]
    assert all(b < a for a, b in zip(errors["wanda"], errors["sparse_gpt"], strict=True))


def test_takes_linear_layers(tiny_data):
    model = nn.Sequential(nn.Flatten(), nn.Linear(144, 32), nn.ReLU(), nn.Linear(32, 4)).eval()
    result = compress(model, "two_four", {"method": "sparse_gpt"}, CompressContext(data=tiny_data))
    assert held_groups(result[1].weight) == 1
    assert torch.equal(result[3].weight, model[3].weight)


def test_a_layer_that_is_not_called_by_itself_stays_dense(tiny_data):
    class Attending(nn.Module):
        def __init__(self):
            super().__init__()
            self.inside = nn.Linear(12, 16)
            self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
            self.hidden, self.head = nn.Linear(16, 16), nn.Linear(16, 4)

        def forward(self, x):
            x = self.inside(x[:, 0])
            x = self.attention(x, x, x)[0]
            return self.head(self.hidden(x).mean(1))

    context = CompressContext(data=tiny_data)
    result = two_four(Attending().eval(), context, method="wanda", batches=1)
    assert two_four_layers(result) == ("hidden",)
    reasons = {row["layer"]: row["reason"] for row in context.report["kept_dense"]}
    assert reasons["attention.out_proj"].startswith("never called by itself")


def test_names_the_reasons_when_no_layer_fits(tiny_model, context):
    narrowed = prune_channels(tiny_model(), context, ratio=0.3, round_to=1)
    with pytest.raises(ModelError, match=r"`stem`: 1 inputs") as caught:
        two_four(narrowed, context)
    assert "`round_to: 16`" in caught.value.hint


def test_refuses_a_name_that_is_no_layer(wide, context):
    with pytest.raises(UnknownName, match=r"two_four\.ignore"):
        two_four(wide, context, ignore=("nothing.*",))


def test_comes_after_pruned_channels_and_holds_through_recovery_store_and_int8(
    tiny_model, tiny_data, context, store_model
):
    pruned = compress(tiny_model(width=32), "prune_channels", {"round_to": 16}, context)
    model = compress(pruned, "two_four", {}, context)
    names = two_four_layers(model)
    assert names
    training = FitContext(constraints=(HeldZeros(sparse_weights(model)),))
    fit(
        Supervised(model),
        tiny_data,
        training,
        TrainingConfig(epochs=1, batch_size=32, learning_rate=0.05),
    )
    assert two_four_layers(model) == names
    loaded = load_model(store_model(model, width=32))
    check_two_four(loaded)
    check_two_four(compress(loaded, "int8_ptq", {}, context))
