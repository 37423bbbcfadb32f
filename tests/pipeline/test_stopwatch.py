import numpy as np
import pytest
import torch
from torch import nn

from kdeploy.compress.contract import Timing
from kdeploy.data.load import DataReference
from kdeploy.errors import Unavailable, UnknownName
from kdeploy.pipeline.stopwatch import Latencies


def layer(channels):
    return nn.Conv2d(8, channels, 3, padding=1).eval()


def test_measures_each_model_as_an_exported_file():
    few, many = Latencies()(
        [layer(8), layer(512)],
        torch.zeros(2, 8, 24, 24),
        Timing(runtime="onnxruntime_cpu", threads=1, seconds=0.05),
    )
    assert 0 < few < many


def test_feeds_the_data_to_what_takes_it(tmp_path, tiny_data):
    for name, part in (("train", tiny_data.train), ("test", tiny_data.test)):
        np.savez(tmp_path / f"{name}.npz", x=part.x, y=part.y)
    files = {part: str(tmp_path / f"{part}.npz") for part in ("train", "test")}
    stopwatch = Latencies(data=DataReference(name="arrays", parameters=files))
    assert stopwatch._fitting(torch.zeros(2, 1, 12, 12)) is stopwatch.data
    assert stopwatch._fitting(torch.zeros(2, 8, 12, 12)) is None


def test_refuses_a_runtime_that_does_not_exist_or_opens_no_files():
    with pytest.raises(UnknownName, match="onnxruntime_gpu"):
        Latencies()([layer(1)], torch.zeros(2, 8, 4, 4), Timing(runtime="onnxruntime_gpu"))
    with pytest.raises(Unavailable, match="not ONNX files"):
        Latencies()([layer(1)], torch.zeros(2, 8, 4, 4), Timing(runtime="torch_eager"))
