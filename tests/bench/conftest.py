from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

from kdeploy.bench.model_under_test import ModelUnderTest
from kdeploy.data.load import DataReference

SHAPE = (2, 6, 6)


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Forty training and seventy test items of three classes, as the `arrays` dataset."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for part, count in (("train", 40), ("test", 70)):
        x = rng.normal(size=(count, *SHAPE)).astype(np.float32)
        np.savez(folder / f"{part}.npz", x=x, y=np.arange(count) % 3)
    parameters = {"train": "train.npz", "test": "test.npz"}
    return DataReference(name="arrays", parameters=parameters, folder=folder)


@pytest.fixture
def fake(tmp_path):
    """Return a function that writes a fake file and returns it as a model."""

    def write(label, *, profile="", **settings):
        path = tmp_path / f"{label}{profile}.onnx"
        path.write_text(json.dumps({"latency_seconds": 0.0002, "classes": 3, **settings}))
        return ModelUnderTest(
            artifact=f"id-{label}", label=label, path=path, format="onnx", profile=profile
        )

    return write


@pytest.fixture(scope="session")
def float_file(tmp_path_factory):
    """A convolution with ReLU and a linear layer: (batch, 2, 6, 6) -> (batch, 3)."""
    return _write(tmp_path_factory.mktemp("onnx") / "float.onnx", batch="batch")


@pytest.fixture(scope="session")
def fixed_file(tmp_path_factory):
    """The same, for batches of exactly three."""
    return _write(tmp_path_factory.mktemp("onnx") / "fixed.onnx", batch=3)


@pytest.fixture(scope="session")
def int8_file(float_file):
    """The same, with Q/DQ pairs that ONNX Runtime turns into integer kernels."""
    path = float_file.with_name("int8.onnx")
    types = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
    quantize_static(float_file, path, _Reader(), per_channel=True, **types)
    return path


def _write(path, *, batch):
    rng = np.random.default_rng(0)
    shapes = {"w0": (4, 2, 3, 3), "b0": (4,), "w1": (3, 144), "b1": (3,)}
    weights = [
        numpy_helper.from_array(rng.normal(0, 0.3, s).astype(np.float32), n)
        for n, s in shapes.items()
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w0", "b0"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Flatten", ["r"], ["f"]),
        helper.make_node("Gemm", ["f", "w1", "b1"], ["y"], transB=1),
    ]
    value = helper.make_tensor_value_info
    inputs = [value("x", TensorProto.FLOAT, [batch, *SHAPE])]
    outputs = [value("y", TensorProto.FLOAT, [batch, 3])]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
    return path


class _Reader(CalibrationDataReader):
    def __init__(self):
        batch = np.random.default_rng(1).normal(size=(8, *SHAPE)).astype(np.float32)
        self._batches = iter([{"x": batch}])

    def get_next(self):
        return next(self._batches, None)
