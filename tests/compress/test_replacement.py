"""Factors in the places of layers: measured, sought again for a budget, reported."""

import pytest
import torch
from torch import nn

from kdeploy.compress.contract import CompressContext, Timing
from kdeploy.compress.low_rank_settings import LowRankSettings
from kdeploy.compress.replacement import replace_layers
from kdeploy.errors import ModelError, OrderError, UnknownName
from kdeploy.low_rank.invariants import factorised
from kdeploy.low_rank.pair import pair_of
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


def low_rank(model, context, *, whiten=False, **given):
    return replace_layers(
        model,
        context,
        make=lambda layer, gram: pair_of(layer, form="channel", gram=gram),
        settings=LowRankSettings(technique="low_rank", whiten=whiten, **given),
    )


def sites(model):
    return {name: layers[0].weight.shape[0] for name, layers in factorised(model)}


def test_a_layer_that_is_not_measured_faster_stays(model, tiny_data):
    def halting(models, example, timing):
        return [2e-4, 3e-4 if models[0].weight.shape[0] == 32 else 1e-4]

    context = CompressContext(data=tiny_data, stopwatch=halting)
    small = low_rank(model, context, rank_ratio=0.25, round_to=4)
    assert set(sites(small)) == {"stem", "blocks.0.conv1", "blocks.0.conv2"}
    [reason] = [r["reason"] for r in context.report["declined"] if r["layer"] == "blocks.1.conv2"]
    assert reason == "not measured faster: 0.3 ms against 0.2 ms at rank 8"


def test_layers_are_measured_as_they_run_in_the_model_and_once_each_shape(model, tiny_data):
    calls = []

    def watching(models, example, timing):
        calls.append((str(models[0]), tuple(example.shape), timing))
        assert models[1](example).shape == models[0](example).shape
        return counting(models, example, timing)

    context = CompressContext(data=tiny_data, stopwatch=watching)
    low_rank(model, context, rank_ratio=0.25, runtime="openvino", threads=2, latency_batch_size=4)
    assert ("Conv2d(16, 16" in calls[0][0], calls[0][1]) == (True, (2, 16, 12, 12))
    assert calls[0][2] == Timing(runtime="openvino", batch_size=4, threads=2)
    assert len(calls) == len({name for name, _, _ in calls}) < len(context.report["replaced"])


def test_without_a_stopwatch_it_is_said_what_is_missing(model, tiny_data):
    with pytest.raises(ModelError, match="its caller gave no stopwatch"):
        low_rank(model, CompressContext(data=tiny_data), rank_ratio=0.25)


def test_always_measures_nothing(model, tiny_data):
    context = CompressContext(data=tiny_data)
    small = low_rank(model, context, rank_ratio=0.25, always=True)
    assert {row["latency_after_seconds"] for row in context.report["replaced"]} == {None}
    assert sites(small)


def test_a_budget_is_sought_again_without_what_was_slower(model, tiny_data, caplog):
    def never_wide(models, example, timing):
        return [1.0, 2.0 if models[0].weight.shape[0] == 32 else 0.5]

    context = CompressContext(data=tiny_data, stopwatch=never_wide)
    small = low_rank(model, context, target={"macs": 0.7}, round_to=1)
    assert set(sites(small)) <= {"stem", "blocks.0.conv1", "blocks.0.conv2", "head"}
    assert count_macs(small, context.example) > 0.7 * count_macs(model, context.example)
    assert "layers measured slower stay as they are" in caplog.text


def test_a_budget_out_of_reach_is_refused(model, context):
    with pytest.raises(ModelError, match=r"cannot keep 1% of the macs: at the lowest ranks"):
        low_rank(model, context, target={"macs": 0.01})


def test_when_nothing_is_better_nothing_changes(model, tiny_data, caplog):
    def equal(models, example, timing):
        return [1.0, 1.0]

    context = CompressContext(data=tiny_data, stopwatch=equal)
    small = low_rank(model, context, rank_ratio=0.25)
    assert torch.equal(small(context.example), model(context.example))
    assert "no layer is better as factors" in caplog.text


def test_modes_of_the_model_are_kept(model, context):
    model.train().bn.eval()
    small = low_rank(model, context, rank_ratio=0.25)
    assert small.blocks[1].conv2.reduce.training
    assert not small.bn.training
    assert small.depthwise.training


def test_an_unknown_layer_to_ignore_is_an_error(model, context):
    with pytest.raises(UnknownName, match="hed"):
        low_rank(model, context, ignore=("hed",))


class Windows(nn.Module):
    """Rows of a layer that are more than those of the model, and a layer that runs twice."""

    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(36, 36)
        self.head = nn.Linear(36, 4)

    def forward(self, x):
        rows = self.mix(self.mix(x.reshape(-1, 36)))  # four windows of an item
        return self.head(rows.reshape(len(x), 4, 36).mean(1))


def test_a_batch_has_as_many_rows_as_in_the_model_and_each_call_counts(tiny_data):
    sizes = []

    def watching(models, example, timing):
        sizes.append((tuple(example.shape), timing.batch_size))
        return [0.2, 0.1]

    context = CompressContext(data=tiny_data, stopwatch=watching)
    low_rank(Windows().eval(), context, rank_ratio=0.25, latency_batch_size=3, ignore=("head",))
    assert sizes == [((2, 36), 12)]
    [row] = context.report["replaced"]
    assert (row["latency_before_seconds"], row["latency_after_seconds"]) == (0.4, 0.2)


class Quantized(nn.Module):
    """A model on a model."""

    wrapper = "pt2e"

    def __init__(self, base):
        super().__init__()
        self.base = base

    def state(self):
        return {}


def test_a_quantized_model_is_refused(model, context):
    with pytest.raises(OrderError, match="changes float weights"):
        low_rank(Quantized(model), context)


def test_a_layer_of_very_many_inputs_is_not_whitened(model, context, monkeypatch):
    monkeypatch.setattr("kdeploy.compress.replacement.MOST_INPUTS", 200)
    low_rank(model, context, rank_ratio=0.25, whiten=True)
    whitened = {row["layer"]: row["whitened"] for row in context.report["replaced"]}
    assert whitened["blocks.0.conv1"] is True  # 144 inputs
    assert whitened["blocks.1.conv2"] is False  # 288
