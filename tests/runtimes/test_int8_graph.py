"""The integer graph against the fake-quantized model that it was made from.

Sums of integers are exact, those of the fake-quantized model are rounded floats: a code differs
where a value lies within that rounding of the middle between two codes, and then by one step.
"""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch
from torch import nn

from kdeploy.quantization.pt2e import QuantizedModel, observe
from kdeploy.runtimes.int8_graph import integer_graph, integer_layers
from kdeploy.runtimes.int8_layers import codes_of, reals_of

pytestmark = pytest.mark.usefixtures("no_gradients")
TINY = Path(__file__).parents[1] / "tiny"
ARCHITECTURES = runpy.run_path(str(TINY / "architectures.py"))
# Integer layers, and those that stay in floating point.
COUNTS = {
    "concatenating": (5, 0),
    "shuffling": (2, 1),
    "squeezing": (6, 0),
    "pre_activated": (3, 2),
    "signal": (3, 0),
    "attending": (6, 2),
}


@pytest.fixture
def no_gradients():
    with torch.no_grad():
        yield


def quantized(model, x, **options):
    ranges = observe(model.eval(), x[:2], [x], choice="min_max")
    return QuantizedModel(model, x[:2], ranges=ranges, profile="tensorrt", **options)


class Residual(nn.Module):
    """Two residual blocks, the second strided, on channels that no kernel's rules fit."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 9, 3, padding=1)
        self.first = nn.Conv2d(9, 9, 3, padding=1)
        self.second = nn.Conv2d(9, 13, 3, stride=2, padding=1)
        self.shortcut = nn.Conv2d(9, 13, 1, stride=2)
        self.head = nn.Linear(13, 5)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        x = torch.relu(self.first(x) + x)
        x = torch.relu(self.second(x) + self.shortcut(x))
        return self.head(x.mean((2, 3)))


def test_each_block_of_a_residual_network_is_integer_layers_alone():
    model, x = Residual(), torch.randn(8, 3, 11, 9)
    source = quantized(model, x)
    graph, kept = integer_graph(source.graph, real_type=torch.float32)
    assert kept == []
    layers = {layer.name: layer.epilogue for layer in integer_layers(graph)}
    assert list(layers) == ["stem", "first", "second", "shortcut", "head"]
    assert [e.skip_scale is not None for e in layers.values()] == [False, True, True, False, False]
    assert [e.has_relu for e in layers.values()] == [True, True, True, False, False]
    assert layers["head"].code_scale is None
    float_steps = [n.target for n in graph.graph.nodes if n.op == "call_function"]
    assert float_steps[:2] == [codes_of, reals_of], "the input's codes, then only the mean's"
    # A flip of one step in a hundred codes would show as about 1e-3.
    expected = source(x)
    assert float((graph(x) - expected).norm() / expected.norm()) < 1e-4


@pytest.mark.parametrize("name", COUNTS)
def test_the_integer_graph_computes_what_the_quantized_model_does(name):
    model = ARCHITECTURES[name]()
    x = torch.randn(16, *ARCHITECTURES["SHAPES"].get(name, (3, 12, 12)))
    model.train()(x)
    source = quantized(model, x)
    graph, kept = integer_graph(source.graph, real_type=torch.float32)
    assert (len(integer_layers(graph)), len(kept)) == COUNTS[name]
    assert all(row["why"] for row in kept)
    expected = source(x)
    assert float((graph(x) - expected).norm() / expected.norm()) < 1e-3
    assert graph(x[:3]).shape == expected[:3].shape, "another batch size"


@pytest.mark.parametrize("real_type", [torch.float16, torch.bfloat16])
def test_what_is_not_integer_computes_in_the_type_that_was_asked_for(real_type):
    model = ARCHITECTURES["attending"]()
    x = torch.randn(8, *ARCHITECTURES["SHAPES"].get("attending", (3, 12, 12)))
    source = quantized(model, x)
    graph, _ = integer_graph(source.graph, real_type=real_type)
    output, expected = graph(x), source(x)
    assert output.dtype == real_type
    # Eight bits of fraction in bfloat16, of which some layers take half each.
    assert float((output.float() - expected).norm() / expected.norm()) < 0.05


def test_a_layer_that_was_left_in_float_stays_and_says_why():
    model, x = Residual(), torch.randn(8, 3, 11, 9)
    graph, kept = integer_graph(
        quantized(model, x, float_layers=["first"]).graph, real_type=torch.float32
    )
    assert [row["layer"] for row in kept] == ["first"]
    assert "not quantized" in kept[0]["why"]
    assert torch.isfinite(graph(x)).all()


def test_the_quantized_graph_is_left_as_it_is():
    model, x = Residual(), torch.randn(8, 3, 11, 9)
    source = quantized(model, x)
    before, code = source(x), source.graph.code
    integer_graph(source.graph, real_type=torch.float16)
    assert source.graph.code == code
    assert torch.equal(source(x), before)
