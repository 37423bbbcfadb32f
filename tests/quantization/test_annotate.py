from __future__ import annotations

import pytest
import torch
from torch import nn

from kdeploy.quantization.annotate import RangeQuantizer
from kdeploy.quantization.capture import capture
from kdeploy.quantization.number_format import INT8
from kdeploy.quantization.profiles import PROFILES
from kdeploy.quantization.torchao_pt2e import convert_pt2e, prepare_pt2e

aten = torch.ops.aten
X = torch.randn(2, 3)


def converted(model, ranges, *, profile="cpu"):
    quantizer = RangeQuantizer(PROFILES[profile], ranges, INT8)
    return convert_pt2e(prepare_pt2e(capture(model, X), quantizer))


def activated(function):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x):
            return self.b(function(self.a(x)))

    return Net()


def targets(graph_module):
    return {node.target for node in graph_module.graph.nodes}


INPUT = {"input": (-2.0, 1.0)}
ACTIVATIONS = {
    "relu": (torch.relu, aten.relu.default, (0.0, 3.0)),
    "relu6": (nn.functional.relu6, aten.relu6.default, (0.0, 6.0)),
    "hardtanh": (nn.functional.hardtanh, aten.hardtanh.default, (-1.0, 1.0)),
    "clamp": (lambda x: x.clamp(min=0), aten.clamp.default, (0.0, 2.0)),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_leaves_the_graph_where_codes_end_at_its_bounds(name):
    function, target, span = ACTIVATIONS[name]
    assert target not in targets(converted(activated(function), {**INPUT, "a": span}))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_stays_where_codes_reach_beyond_its_bounds(name):
    function, target, (low, high) = ACTIVATIONS[name]
    graph_module = converted(activated(function), {**INPUT, "a": (low - 1.0, high)})
    assert target in targets(graph_module)


def test_an_activation_stays_for_tensorrt_which_fuses_it_itself():
    ranges = {**INPUT, "a": (0.0, 3.0)}
    graph_module = converted(activated(torch.relu), ranges, profile="tensorrt")
    assert aten.relu.default in targets(graph_module)


def quantizers(graph_module):
    """Return scale, zero point, lowest and highest code and type of each activation quantizer."""
    name = torch.ops.quantized_decomposed.quantize_per_tensor.default
    return [n.args[1:6] for n in graph_module.graph.nodes if n.target is name]


def test_the_encoding_is_the_one_of_the_profile():
    ranges = {**INPUT, "a": (0.0, 2.54)}
    unsigned = quantizers(converted(activated(torch.relu), ranges))
    signed = quantizers(converted(activated(torch.relu), ranges, profile="tensorrt"))
    scales = [pytest.approx(s, rel=1e-6) for s in (3 / 255, 2.54 / 255, 2 / 127, 2.54 / 127)]
    assert unsigned == [
        (scales[0], 170, 0, 255, torch.uint8),
        (scales[1], 0, 0, 255, torch.uint8),
    ]
    assert signed == [
        (scales[2], 0, -128, 127, torch.int8),
        (scales[3], 0, -128, 127, torch.int8),
    ]


def test_weights_are_int8_per_channel_and_biases_stay_float():
    model = activated(torch.relu)
    graph_module = converted(model, {**INPUT, "a": (0.0, 3.0)})
    stored = dict(graph_module.named_buffers()) | dict(graph_module.named_parameters())
    weights = [t for t in stored.values() if t.dtype is torch.int8 and t.dim() == 2]
    assert [list(w.shape) for w in weights] == [[4, 3], [2, 4]]
    largest = model.a.weight.detach().abs().amax(1, keepdim=True)
    codes = torch.round(model.a.weight.detach() / largest * 127).to(torch.int8)
    assert torch.equal(weights[0], codes)
    assert any(torch.equal(t, model.a.bias) for t in stored.values() if t.dim() == 1)
