"""The moving average against its formula."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from kdeploy.training.average import WeightAverage


@pytest.fixture
def model():
    return nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))


def walk(model, average, values):
    for value in values:
        with torch.no_grad():
            model[0].weight.fill_(value)
            model[1].num_batches_tracked.add_(1)
        average.update()


def test_is_the_formula_with_a_rising_decay(model):
    with torch.no_grad():
        model[0].weight.fill_(5.0)
    average = WeightAverage(model, decay=0.4)
    values = np.random.default_rng(0).normal(size=12)
    walk(model, average, values)
    expected = 5.0
    for step, value in enumerate(values, 1):
        decay = min(0.4, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    assert average.tensors["0.weight"].item() == pytest.approx(expected, rel=1e-6)


def test_copies_counters(model):
    average = WeightAverage(model, decay=0.9)
    walk(model, average, [1.0, 2.0, 3.0])
    assert average.tensors["1.num_batches_tracked"].item() == 3


def test_lends_the_model_its_weights(model):
    average = WeightAverage(model, decay=0.9)
    walk(model, average, [1.0, 2.0])
    with average.applied():
        assert torch.equal(model[0].weight, average.tensors["0.weight"])
    assert model[0].weight.item() == 2.0


def test_gives_the_weights_back_after_an_error(model):
    average = WeightAverage(model, decay=0.9)
    walk(model, average, [3.0])
    with pytest.raises(KeyboardInterrupt), average.applied():
        raise KeyboardInterrupt
    assert model[0].weight.item() == 3.0


def test_goes_on_from_its_state(model):
    straight = WeightAverage(model, decay=0.9)
    walk(model, straight, [1.0, 4.0])
    resumed = WeightAverage(model, decay=0.9)
    resumed.load_state_dict(straight.state_dict())
    walk(model, straight, [2.0])
    resumed.update()
    assert torch.equal(straight.tensors["0.weight"], resumed.tensors["0.weight"])
