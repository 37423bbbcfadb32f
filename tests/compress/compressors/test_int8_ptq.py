from __future__ import annotations

import copy
import dataclasses
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from kdeploy.compress.compressors.int8_ptq import int8_ptq, is_quantized
from kdeploy.compress.contract import CompressContext
from kdeploy.errors import NotCalibrated, OrderError
from kdeploy.machine import Machine
from kdeploy.quantization.pt2e import QuantizedModel, pt2e
from kdeploy.registry import find
from tests.tiny.text import Classifier, Next, items, sequences


@pytest.fixture
def context(tiny_data):
    return CompressContext(data=tiny_data, seed=3)


def distance(small, model, data):
    x = torch.from_numpy(data.preprocessing.apply(data.test.x))
    with torch.no_grad():
        return float((small(x) - model(x)).norm() / model(x).norm())


def test_the_quantized_model_stays_close_to_the_float_one(tiny_model, tiny_data, context):
    model = tiny_model()
    for observer in ("mse", "min_max"):
        small = int8_ptq(model, context, observer=observer)
        assert isinstance(small, QuantizedModel)
        assert 0 < distance(small, model, tiny_data) < 0.05


def test_the_observer_and_the_profile_are_in_the_state(tiny_model, context):
    model = tiny_model()
    clipped, whole = (int8_ptq(model, context, observer=o) for o in ("mse", "min_max"))
    spans = [sum(high - low for low, high in m.ranges.values()) for m in (clipped, whole)]
    assert spans[0] < spans[1]
    assert int8_ptq(model, context, profile="tensorrt").state()["profile"] == "tensorrt"


def test_calibration_looks_at_as_many_training_items_as_asked(tiny_model, context, monkeypatch):
    asked = []
    original = CompressContext.batches

    def watched(self, part, batch_size, count):
        for x, y in original(self, part, batch_size, count):
            asked.append((part is self.data.train, len(x)))
            yield x, y

    monkeypatch.setattr(CompressContext, "batches", watched)
    int8_ptq(tiny_model(), context, calibration_batches=3, batch_size=5)
    assert asked == [(True, 2), *[(True, 5)] * 3]


def test_unlabelled_items_are_calibrated_on_in_place_of_the_training_items(
    tiny_model, tiny_data, context
):
    twice = np.asarray(tiny_data.train.x[:40]) // 2
    given = replace(tiny_data, unlabelled=twice)
    train = replace(tiny_data.train, x=twice, y=tiny_data.train.y[:40])
    model = tiny_model()
    found = int8_ptq(model, replace(context, data=given), batch_size=40)
    known = int8_ptq(model, replace(context, data=replace(tiny_data, train=train)), batch_size=40)
    other = int8_ptq(model, context, batch_size=40)
    x = example_of(tiny_data)
    torch.testing.assert_close(found(x), known(x), rtol=0, atol=0)
    assert not torch.equal(found(x), other(x))


def example_of(data):
    return torch.from_numpy(data.preprocessing.apply(data.validation.x[:8]))


def test_the_same_seed_gives_the_same_ranges(tiny_model, context):
    one, two = (int8_ptq(tiny_model(), context, batch_size=8) for _ in range(2))
    assert one.state() == two.state()


def test_quantizing_twice_is_refused(tiny_model, context):
    small = int8_ptq(tiny_model(), context)
    with pytest.raises(OrderError, match="quantized already") as caught:
        int8_ptq(small, context)
    assert "--profile tensorrt" in caught.value.hint


def test_a_layer_that_no_data_reaches_is_named(context):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(144, 4)

        def forward(self, x):
            return self.head(torch.exp(x[:0]).flatten(1))

    with pytest.raises(NotCalibrated, match="2 of 2 tensors saw no data \\(first: `exp`"):
        int8_ptq(Net(), context)


def test_an_empty_training_part_is_refused(tiny_model, context, tiny_data):
    empty = dataclasses.replace(tiny_data.train, x=tiny_data.train.x[:0], y=tiny_data.train.y[:0])
    data = dataclasses.replace(tiny_data, train=empty)
    with pytest.raises(NotCalibrated, match="no training items"):
        int8_ptq(tiny_model(), CompressContext(data=data))


def test_a_float_model_does_not_pass_as_quantized(tiny_model, context):
    with pytest.raises(AssertionError, match="no quantizers"):
        is_quantized(tiny_model())
    is_quantized(int8_ptq(tiny_model(), context))


def test_seven_bit_weights_are_an_option(tiny_model, context, tiny_data):
    model = tiny_model()
    small = int8_ptq(model, context, reduce_range=True)
    whole = int8_ptq(model, context, reduce_range=False)
    assert distance(small, model, tiny_data) > distance(whole, model, tiny_data)


def test_its_parameters_are_documented():
    technique = find("compressor", "int8_ptq")
    assert {p.name for p in technique.parameters if p.doc} == {
        *("profile", "observer", "percentile", "calibration_batches", "batch_size", "reduce_range"),
        *("equalize", "smooth", "bias_correction", "adaround", "adaround_iterations"),
        *("max_drop", "sensitivity", "ignore"),
    }
    assert dataclasses.asdict(technique)["facts"]["paper"].startswith("arXiv:")


@pytest.mark.parametrize(("model", "data"), [(Classifier, items), (Next, sequences)])
def test_linear_layers_after_token_ids_become_int8(model, data):
    torch.manual_seed(0)
    whole, texts = model().eval(), data()
    small = int8_ptq(whole, CompressContext(data=texts), batch_size=16)
    assert 0 < distance(small, whole, texts) < 0.05


@pytest.fixture
def chained(context):
    """Return a small plain network for the context's data, with a bias in each layer."""
    torch.manual_seed(0)
    layers = (nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.ReLU(), nn.Flatten())
    x = context.example
    return nn.Sequential(*layers, nn.Linear(layers_width(layers, x), 4)).eval()


def layers_width(layers, x):
    with torch.no_grad():
        return nn.Sequential(*layers)(x).shape[1]


def test_every_improvement_of_the_weights_says_what_it_did(chained, context, tiny_data):
    small = int8_ptq(
        chained, context, equalize=True, adaround=True, adaround_iterations=20, batch_size=8
    )
    assert 0 < distance(small, chained, tiny_data) < 0.05
    said = {row["step"]: row["result"] for row in context.report["int8_ptq"]}
    assert list(said) == ["equalize", "calibrate", "adaround", "bias_correction"]
    assert said["equalize"].startswith("1 pairs; not `2.weight`")
    assert said["adaround"] == "3 layers"
    assert said["bias_correction"].startswith("3 layers, at most")


def test_learned_codes_are_those_of_the_quantized_model(chained, context):
    settings = {"adaround": True, "adaround_iterations": 50, "batch_size": 8}
    small = int8_ptq(chained, context, reduce_range=False, **settings)
    codes = [b for b in small.graph.buffers() if b.dtype is torch.int8 and b.dim() > 1]
    weights = [p.detach() for p in small.base.parameters() if p.dim() > 1]
    assert len(codes) == len(weights) == 3
    for code, weight in zip(codes, weights, strict=True):
        step = weight.abs().flatten(1).amax(1).reshape(-1, *(1 for _ in weight.shape[1:])) / 127
        torch.testing.assert_close(code * step, weight)


@pytest.mark.parametrize("setting", ["equalize", "smooth"])
def test_a_setting_without_effect_warns(setting, context, caplog):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(context.example[0].numel(), 4))
    int8_ptq(model, context, **{setting: True})
    assert f"`{setting}` has no effect" in caplog.text


@pytest.mark.parametrize(
    ("instruction_sets", "options", "bits"),
    [
        (("avx2",), {}, 7),
        (("avx2",), {"profile": "tensorrt"}, 8),
        (("avx2",), {"reduce_range": False}, 8),
        (("avx2", "avx512_vnni"), {}, 8),
        (("avx2", "avx512_vnni"), {"reduce_range": True}, 7),
    ],
)
def test_bits_of_the_weights_follow_from_the_machine(
    instruction_sets, options, bits, context, monkeypatch
):
    machine = Machine(
        id="", cpu="old", architecture="x86_64", cores=1, instruction_sets=instruction_sets
    )
    monkeypatch.setattr("kdeploy.compress.quantization_rules.fingerprint", lambda: machine)
    model = nn.Sequential(nn.Flatten(), nn.Linear(context.example[0].numel(), 4))
    small = int8_ptq(model, context, calibration_batches=1, **options)
    assert small.reduce_range is (bits == 7)
    [row] = context.report["weights"]
    assert row["bits"] == bits


def test_a_layer_that_stays_float_keeps_its_weight_and_bias(chained, context):
    small = int8_ptq(
        chained, context, adaround=True, adaround_iterations=20, batch_size=8, ignore=("2",)
    )
    kept, changed = small.base[2], small.base[0]
    assert torch.equal(kept.weight, chained[2].weight)
    assert torch.equal(kept.bias, chained[2].bias)
    assert not torch.equal(changed.weight, chained[0].weight)
    assert not torch.equal(changed.bias, chained[0].bias)


@pytest.mark.parametrize("options", [{}, {"bias_correction": False}, {"equalize": True}])
def test_the_graph_that_was_calibrated_is_the_one_that_the_state_makes(options, chained, context):
    small = int8_ptq(chained, context, batch_size=8, **options)
    again = pt2e(copy.deepcopy(small.base), small.state(), small.example)
    assert torch.equal(again(context.example), small(context.example))
