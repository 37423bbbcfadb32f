"""Dropping blocks by what the answers lose."""

import copy
import dataclasses
import json

import pytest
import torch
from torch import nn

from kdeploy.compress.compressors.drop_layers import drop_layers
from kdeploy.compress.contract import CompressContext
from kdeploy.compress.run import compress
from kdeploy.errors import ModelError, NotCalibrated, OrderError, RecipeError, UnknownName
from kdeploy.store.model_io import load_model
from kdeploy.store.structure import difference, replay
from kdeploy.torch_module.complexity import count_macs, count_parameters
from tests.tiny.compressing import stopwatch

GAINS = (0.3, 0.001, 0.1, 1.0)


class Block(nn.Module):
    def __init__(self, gain):
        super().__init__()
        self.gain, self.inner = gain, nn.Sequential(nn.Linear(12, 12), nn.Tanh())

    def forward(self, x, mask=None):
        return x + self.gain * self.inner(x)


class Deep(nn.Module):
    """Residual blocks whose weight in the sum is known."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([Block(gain) for gain in GAINS])
        self.head = nn.Linear(12, 4)

    def forward(self, x):
        x = x.flatten(1)[:, :12]
        for block in self.blocks:
            x = block(x, None)
        return self.head(x)


@pytest.fixture
def context(tiny_data):
    return CompressContext(data=tiny_data, stopwatch=stopwatch)


def gains(model):
    return [block.gain for block in model.blocks]


def outermost(context):
    rows = context.report["layers"]
    return {row["layer"]: row for row in rows if not row["layer"].endswith("inner")}


def test_the_block_goes_that_changes_the_answers_least(context):
    model = Deep()
    result = drop_layers(model, context, ignore=("*.inner",))
    assert gains(result) == [0.3, 0.1, 1.0]
    rows = outermost(context)
    assert [row["dropped"] for row in rows.values()] == [False, True, False, False]
    shorter = copy.deepcopy(model)
    del shorter.blocks[1]
    x = torch.cat([x for x, _ in context.batches(context.data.train, 32, 4)])
    p, q = (m(x).log_softmax(-1).detach() for m in (model, shorter))
    expected = float((p.exp() * (p - q)).sum(1).mean())
    assert rows["blocks.1"]["divergence"] == pytest.approx(expected, rel=1e-3, abs=1e-7)
    assert len(model.blocks) == 4
    assert json.loads(json.dumps(context.report)) == context.report


def test_what_is_left_is_measured_again(context):
    result = drop_layers(Deep(), context, count=2, ignore=("*.inner",))
    assert gains(result) == [0.3, 1.0]
    rows = outermost(context)
    assert rows["blocks.2"]["divergence"] > rows["blocks.1"]["divergence"]


def test_half_the_layers_are_kept(context):
    assert gains(drop_layers(Deep(), context, target={"layers": 0.5})) == [0.3, 1.0]
    reasons = {row["layer"]: row["reason"] for row in context.report["layers"]}
    assert reasons["blocks.0.inner"] == "is no layer of its own"
    assert gains(drop_layers(Deep(), context, target={"layers": 0.01})) == [1.0]


@pytest.mark.parametrize("what", ["macs", "parameters", "latency"])
def test_blocks_go_until_the_target_is_reached(context, what):
    def cost(model):
        return count_macs(model, context.example) if what == "macs" else count_parameters(model)

    model = Deep()
    result = drop_layers(model, context, target={what: 0.6})
    assert 0.3 <= cost(result) / cost(model) <= 0.6


def test_a_target_out_of_reach_warns(context, caplog):
    result = drop_layers(Deep(), context, target={"macs": 0.01}, ignore=("blocks.3*", "*.inner"))
    assert gains(result) == [1.0]
    assert "no other block can go" in caplog.text
    drop_layers(Deep(), context, count=9, ignore=("*.inner",))
    assert "dropped 4 blocks of the 9" in caplog.text


def test_what_is_inside_of_a_dropped_block_went_with_it(context):
    drop_layers(Deep(), context, count=4)
    rows = {row["layer"]: row for row in context.report["layers"]}
    inside = [row["reason"] for name, row in rows.items() if name.endswith("inner")]
    assert any(reason.startswith("went with `blocks.") for reason in inside)


def test_a_model_that_counts_its_blocks_keeps_them(context):
    class Counting(Deep):
        def forward(self, x):
            x = x.flatten(1)[:, :12]
            for number in range(4):
                x = self.blocks[number](x, None)
            return self.head(x)

    result = drop_layers(Counting(), context, ignore=("*.inner",))
    assert len(result.blocks) == 4
    assert "cannot run without it" in context.report["layers"][0]["reason"]


def test_members_of_a_list_that_do_not_run_themselves_go_as_well(context):
    class Pairs(Deep):
        """As in vit_pytorch: the code takes pairs of a list apart."""

        def __init__(self):
            super().__init__()
            pairs = [nn.ModuleList([Block(gain), Block(gain)]) for gain in (0.5, 0.001)]
            self.blocks = nn.ModuleList(pairs)

        def forward(self, x):
            x = x.flatten(1)[:, :12]
            for first, second in self.blocks:
                x = second(first(x))
            return self.head(x)

    result = drop_layers(Pairs(), context, target={"layers": 0.5})
    assert [pair[0].gain for pair in result.blocks] == [0.5]


def test_edits_shorten_the_list_again(context):
    model = Deep()
    result = drop_layers(model, context, count=2, ignore=("*.inner",))
    edits = json.loads(json.dumps(difference(model, result)))
    loaded = replay(Deep(), edits)
    loaded.load_state_dict(result.state_dict())
    assert gains(loaded) == gains(result)
    assert torch.equal(loaded(context.example), result(context.example))


def test_a_residual_network_loses_a_block_and_is_stored(tiny_model, context, store_model):
    model = tiny_model()
    result = compress(model, "drop_layers", {}, context)
    assert isinstance(result.blocks[0], nn.Identity)
    loaded = load_model(store_model(result))
    assert torch.equal(loaded(context.example), result(context.example))


def test_modes_are_as_they_were(context):
    assert all(m.training for m in drop_layers(Deep().train(), context).modules())
    assert not any(m.training for m in drop_layers(Deep().eval(), context).modules())


def test_what_cannot_be_done_is_refused(context, tiny_data):
    with pytest.raises(RecipeError, match="one target"):
        drop_layers(Deep(), context, count=1, target={"macs": 0.5})
    with pytest.raises(RecipeError, match="one target"):
        drop_layers(Deep(), context, target={"macs": 0.5, "layers": 0.5})
    with pytest.raises(UnknownName, match="`blocks"):
        drop_layers(Deep(), context, ignore=("blocks.9",))
    with pytest.raises(UnknownName, match="runtime"):
        drop_layers(Deep(), context, runtime="abacus")
    with pytest.raises(ModelError, match="no block"):
        drop_layers(nn.Sequential(nn.Flatten(), nn.Linear(144, 4)), context)
    empty = dataclasses.replace(tiny_data.train, x=tiny_data.train.x[:0], y=tiny_data.train.y[:0])
    nothing = CompressContext(data=dataclasses.replace(tiny_data, train=empty))
    with pytest.raises(NotCalibrated, match="no training items"):
        drop_layers(Deep(), nothing)


def test_a_quantized_model_is_refused(context):
    model = Deep()
    model.wrapper, model.base, model.state = "int8", Deep(), dict
    with pytest.raises(OrderError, match="before the step that quantizes"):
        drop_layers(model, context)
