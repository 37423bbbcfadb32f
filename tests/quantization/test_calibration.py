from __future__ import annotations

import pytest
import torch
from torch import nn

from kdeploy.errors import ModelError, NotCalibrated
from kdeploy.quantization.calibration import calibrate
from kdeploy.quantization.observers import RANGE_ESTIMATORS

X = torch.randn(10, 2, 6, 6, generator=torch.Generator().manual_seed(0))


def network():
    torch.manual_seed(0)
    layers = (nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 4))
    return nn.Sequential(*layers).eval()


def test_means_are_of_what_each_layer_was_given():
    model = network()
    calibration = calibrate(model, X[:2], [X[:7], X[7:]])
    conv, linear = (mean.value for mean in calibration.input_means.values())
    torch.testing.assert_close(conv, X.mean(0))
    with torch.no_grad():
        torch.testing.assert_close(linear, model[:3](X).mean(0))
    assert calibration.num_items == 10


def test_a_linear_layer_on_tokens_is_given_their_rows():
    model = nn.Sequential(nn.Linear(5, 3))
    x = torch.randn(6, 4, 5)
    calibration = calibrate(model, x[:2], [x[:4], x[4:]])
    [mean] = calibration.input_means.values()
    torch.testing.assert_close(mean.value, x.mean((0, 1)))


@pytest.mark.parametrize("choice", RANGE_ESTIMATORS)
def test_one_look_at_the_data_serves_every_observer(choice):
    ranges = calibrate(network(), X[:2], [X]).ranges(choice)
    assert {"input", "0"} <= set(ranges)
    low, high = ranges["input"]
    assert low < 0 < high
    assert ranges["0"][0] == 0


def test_the_percentile_is_the_one_asked_for():
    calibration = calibrate(network(), X[:2], [X])
    narrow, wide = (calibration.ranges("percentile", percent=p)["input"] for p in (90, 100))
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_no_data_and_values_without_end_are_errors():
    with pytest.raises(NotCalibrated, match="saw no data"):
        calibrate(network(), X[:2], [])
    with pytest.raises(ModelError, match="not finite"):
        calibrate(network(), X[:2], [X * float("inf")])
