from __future__ import annotations

import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from kdeploy.export.exporters.onnx_from_torch import onnx_from_torch
from kdeploy.quantization.pt2e import QuantizedModel, observe
from tests.tiny.weight_bits import is_reduced


class Residual(nn.Module):
    """Three convolutions and an addition, three linear layers."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.c = nn.Conv2d(8, 8, 3, padding=1)
        self.d, self.e, self.head = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 5)

    def forward(self, x):
        x = torch.relu(self.a(x))
        x = self.c(torch.relu(self.b(x))) + x
        x = torch.relu(self.d(x.mean((2, 3))))
        return self.head(torch.relu(self.e(x)))


@pytest.fixture(scope="module")
def ranged():
    """Return a network, inputs and ranges."""
    torch.manual_seed(0)
    model, x = Residual().eval(), torch.randn(16, 3, 8, 8)
    return model, x, observe(model, x[:2], [x], choice="min_max")


def executed(path):
    """Return a session and the graph that it executes."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(path.with_suffix(".optimized.onnx"))
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
    return session, onnx.load(options.optimized_model_filepath).graph


@pytest.mark.parametrize("name", ["a", "b", "c", "d", "e", "head"])
def test_a_float_layer_runs_in_float_and_all_others_on_integers(ranged, tmp_path, name):
    model, x, ranges = ranged
    settings = {"profile": "cpu", "reduce_range": is_reduced()}
    small = QuantizedModel(model, x[:2], ranges=ranges, float_layers=[name], **settings)
    onnx_from_torch(small, x[:2], tmp_path / "model.onnx")
    session, graph = executed(tmp_path / "model.onnx")
    kinds = [node.op_type for node in graph.node]
    in_float = [kind for kind in kinds if kind in ("Conv", "FusedConv", "Gemm", "FusedGemm")]
    on_integers = [kind for kind in kinds if kind in ("QLinearConv", "QGemm")]
    assert [len(in_float), len(on_integers)] == [1, 5]
    assert ("Conv" in in_float[0]) == (name in "abc")
    assert "LeakyRelu" not in kinds  # the guard is a part of the layer before it
    [weight] = [n.input[1] for n in graph.node if n.op_type == in_float[0]]
    assert weight in {t.name for t in graph.initializer if t.data_type == onnx.TensorProto.FLOAT}
    [outputs] = session.run(None, {"input": x.numpy()})
    expected = small(x)
    # A value on the edge between two codes may fall to either side.
    assert (torch.from_numpy(outputs) - expected).norm() < 0.01 * expected.norm()


def test_the_guard_stands_only_where_a_runtime_would_round_the_weight(ranged, tmp_path):
    model, x, ranges = ranged
    for floats, guards in (((), 0), (("b",), 1), (("b", "c"), 0), (("a", "d"), 0)):
        small = QuantizedModel(model, x[:2], ranges=ranges, profile="cpu", float_layers=floats)
        onnx_from_torch(small, x[:2], tmp_path / "model.onnx")
        nodes = onnx.load(tmp_path / "model.onnx").graph.node
        assert sum(node.op_type == "LeakyRelu" for node in nodes) == guards
