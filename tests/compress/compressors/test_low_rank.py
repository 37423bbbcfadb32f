"""Low rank as a step: which layers become two, at what rank, and what the report says."""

import json

import pytest
import torch
from torch import nn

from kdeploy.compress.compressors.low_rank import low_rank
from kdeploy.compress.contract import CompressContext
from kdeploy.compress.run import compress
from kdeploy.low_rank.invariants import factorised
from kdeploy.store.model_io import load_model
from kdeploy.torch_module.complexity import count_macs, count_parameters


@pytest.fixture
def context(tiny_data):
    return CompressContext(data=tiny_data, stopwatch=counting)


@pytest.fixture
def model(tiny_model):
    return tiny_model(width=16)


def counting(models, example, timing):
    """Return parameter counts as seconds."""
    return [float(count_parameters(model)) for model in models]


def sites(model):
    return {name: layers[0].weight.shape[0] for name, layers in factorised(model)}


def test_a_layer_becomes_two_and_the_report_says_what_that_brings(model, context):
    small = compress(
        model, "low_rank", {"form": "channel", "rank_ratio": 0.25, "round_to": 4}, context
    )
    assert sites(small)["blocks.1.conv2"] == 8
    rows = {row["layer"]: row for row in context.report["replaced"]}
    assert rows.keys() == sites(small).keys()
    row = rows["blocks.1.conv2"]
    assert (row["rank"], row["full_rank"]) == ("8", "32")
    assert (row["parameters_before"], row["parameters_after"]) == (9216, 8 * 288 + 32 * 8)
    assert (row["latency_before_seconds"], row["latency_after_seconds"]) == (9216, 2560)
    assert 0 < row["energy_kept"] < 1
    assert row["whitened"] is True
    json.dumps(context.report)


def test_every_layer_is_in_the_report_once(model, context):
    compress(model, "low_rank", {"rank_ratio": 0.25, "round_to": 4}, context)
    layers = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    rows = context.report["replaced"] + context.report["declined"]
    assert sorted(row["layer"] for row in rows) == sorted(layers)
    reasons = {row["layer"]: row["reason"] for row in context.report["declined"]}
    assert reasons["depthwise"] == "a depthwise convolution (32 groups)"
    assert reasons["head"] == "rank 4 of 4 saves nothing"


@pytest.mark.parametrize("what", ["macs", "parameters"])
@pytest.mark.parametrize("form", ["channel", "spatial"])
def test_a_budget_is_reached_by_all_layers_together(model, context, what, form):
    count = {"macs": lambda m: count_macs(m, context.example), "parameters": count_parameters}[what]
    target = {what: 0.5}
    small = low_rank(model, context, target=target, form=form, round_to=1)
    assert 0.45 < count(small) / count(model) <= 0.5


def test_outputs_of_a_whitened_model_are_nearer(model, context):
    x, errors = context.example, []
    for whiten in (True, False):
        small = low_rank(
            model, context, rank_ratio=0.25, round_to=1, whiten=whiten, always=True, ignore=["head"]
        )
        errors.append((small(x) - model(x)).square().sum().item())
    assert errors[0] < errors[1]


def test_vbmf_finds_the_rank_that_a_layer_was_made_of(context):
    class Planted(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.head = nn.Linear(144, 96), nn.Linear(96, 4)
            with torch.no_grad():
                product = torch.randn(96, 5) @ torch.randn(5, 144)
                self.fc.weight.copy_(product + 0.1 * torch.randn(96, 144))

        def forward(self, x):
            return self.head(self.fc(x.flatten(1)))

    small = low_rank(Planted().eval(), context, vbmf=True, round_to=1)
    assert sites(small)["fc"] == 5


@pytest.mark.parametrize(
    ("form", "kernels"), [("spatial", ((3, 1), (1, 3))), ("channel", ((3, 3), (1, 1)))]
)
def test_kernels_have_the_form_that_was_asked_for(model, context, form, kernels):
    small = low_rank(model, context, form=form, rank_ratio=0.25, round_to=4)
    factors = small.blocks[1].conv2
    assert (factors.reduce.kernel_size, factors.expand.kernel_size) == kernels
    assert small.blocks[1].shortcut.reduce.kernel_size == (1, 1)


CHAINS = {
    "alone": [],
    "twice": [("low_rank", {"rank_ratio": 0.5, "round_to": 1, "always": True})],
    "pruned": [("prune_channels", {"ratio": 0.3, "round_to": 2})],
    "quantized": [("int8_ptq", {})],
    "with Tucker": [("tucker", {"rank_ratio": 0.5, "round_to": 1, "always": True})],
}


@pytest.mark.parametrize("name", CHAINS)
def test_the_store_gives_it_back_bit_by_bit(model, context, store_model, name):
    form = "channel" if name == "quantized" else "spatial"
    small = compress(model, "low_rank", {"rank_ratio": 0.25, "form": form}, context)
    assert sites(small)
    for technique, parameters in CHAINS[name]:
        small = compress(small, technique, parameters, context)
    loaded = load_model(store_model(small, width=16))
    assert torch.equal(loaded(context.example), small(context.example))
