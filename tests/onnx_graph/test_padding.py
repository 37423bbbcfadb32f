"""Padding of its own before a convolution, moved into it."""

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from kdeploy.compress.compressors.int8_ptq import int8_ptq
from kdeploy.compress.contract import CompressContext
from kdeploy.export.run import export
from kdeploy.runtimes.onnxruntime_cpu import OnnxruntimeCpu


class Padding(nn.Module):
    """Pads unevenly, as TensorFlow does, twice; or with something that no convolution can."""

    def __init__(self, mode="constant", value=0.0):
        super().__init__()
        self.mode, self.value = mode, value
        self.first = nn.Conv2d(3, 8, 3, stride=2)
        self.second = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = torch.relu(self.first(F.pad(x, (0, 1, 0, 1))))
        value = self.value if self.mode == "constant" else None
        x = torch.relu(self.second(F.pad(x, (1, 2, 0, 1), mode=self.mode, value=value)))
        return self.head(x.mean((2, 3)))


def exported(model, items, path, *, profile="cpu"):
    export(model, "onnx", {"profile": profile}, items, path)
    return onnx.load(path)


def count(model, kind):
    return sum(node.op_type == kind for node in model.graph.node)


def pads_of(model):
    nodes = [n for n in model.graph.node if n.op_type == "Conv"]
    return [next(list(a.ints) for a in n.attribute if a.name == "pads") for n in nodes]


def test_a_float_file_has_no_padding_of_its_own(data, tmp_path):
    written = exported(Padding().eval(), data((3, 11, 11)), tmp_path / "m.onnx")
    assert count(written, "Pad") == 0
    assert pads_of(written) == [[0, 0, 1, 1], [1, 2, 2, 3]]


@pytest.mark.parametrize("profile", ["cpu", "tensorrt", "arm"])
def test_an_int8_file_has_none_and_no_quantizers_for_it(data, tmp_path, profile):
    items = data((3, 11, 11))
    small = int8_ptq(Padding().eval(), CompressContext(data=items), profile=profile)
    written = exported(small, items, tmp_path / "m.onnx", profile=profile)
    assert count(written, "Pad") == 0
    if profile == "cpu":
        runtime = OnnxruntimeCpu()
        runtime.open(tmp_path / "m.onnx")
        try:
            operators = runtime.proof_of_use().operators
        finally:
            runtime.close()
        assert operators["QLinearConv"] == 2
        assert "Conv" not in operators


@pytest.mark.parametrize(("mode", "value"), [("reflect", 0.0), ("constant", 1.0)])
def test_padding_with_anything_but_zeros_stays(data, tmp_path, mode, value):
    written = exported(Padding(mode, value).eval(), data((3, 11, 11)), tmp_path / "m.onnx")
    assert count(written, "Pad") == 1
    items = data((3, 11, 11))
    small = int8_ptq(Padding(mode, value).eval(), CompressContext(data=items))
    written = exported(small, items, tmp_path / "i.onnx")
    assert count(written, "Pad") == 1
    assert np.isfinite(small(torch.zeros(1, 3, 11, 11)).numpy()).all()
