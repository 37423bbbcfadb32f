from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from kdeploy.compress.contract import CompressContext
from kdeploy.compress.int8_ptq import int8_ptq, is_quantized
from kdeploy.errors import NotCalibrated, OrderError
from kdeploy.quantization.pt2e import QuantizedModel
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

    with pytest.raises(NotCalibrated, match="1 of 1 tensors saw no data \\(first: `exp`"):
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
    assert distance(small, model, tiny_data) > distance(int8_ptq(model, context), model, tiny_data)


def test_its_parameters_are_documented():
    technique = find("compressor", "int8_ptq")
    assert {p.name for p in technique.parameters if p.doc} == {
        *("profile", "observer", "calibration_batches", "batch_size", "reduce_range"),
    }
    assert dataclasses.asdict(technique)["facts"]["paper"].startswith("arXiv:")


@pytest.mark.parametrize(("model", "data"), [(Classifier, items), (Next, sequences)])
def test_linear_layers_after_token_ids_become_int8(model, data):
    torch.manual_seed(0)
    whole, texts = model().eval(), data()
    small = int8_ptq(whole, CompressContext(data=texts), batch_size=16)
    assert 0 < distance(small, whole, texts) < 0.05
