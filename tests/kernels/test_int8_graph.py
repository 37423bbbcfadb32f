"""The integer graph against the fake-quantized model that it was made from.

Sums of integers are exact, those of the fake-quantized model are rounded floats: a code differs
where a value lies within that rounding of the middle between two codes, and then by one step.
"""

from __future__ import annotations

import copy
import runpy
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

from kdeploy.kernels.int8_graph import integer_graph, integer_layers
from kdeploy.kernels.int8_layers import codes_of, reals_of
from kdeploy.quantization.pt2e import QuantizedModel, observe

pytestmark = pytest.mark.usefixtures("no_gradients")
TINY = Path(__file__).parents[1] / "tiny"
ARCHITECTURES = runpy.run_path(str(TINY / "architectures.py"))


@pytest.fixture
def no_gradients():
    with torch.no_grad():
        yield


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


@cache
def source_of(name):
    """Return a quantized network and inputs for it."""
    torch.manual_seed(0)
    model = Residual() if name == "residual" else ARCHITECTURES[name]()
    x = torch.randn(8, *ARCHITECTURES["SHAPES"].get(name, (3, 11, 9)))
    with torch.no_grad():
        model.train()(x)
        return quantized(model, x), x


def quantized(model, x, **options):
    ranges = observe(model.eval(), x[:2], [x], choice="min_max")
    return QuantizedModel(model, x[:2], ranges=ranges, profile="tensorrt", **options)


def difference(found, expected):
    return float((found.float() - expected).norm() / expected.norm())


def test_each_block_of_a_residual_network_is_integer_layers_alone():
    source, _ = source_of("residual")
    graph, kept = integer_graph(source.graph, real_type=torch.float32)
    assert kept == []
    layers = {layer.name: layer.epilogue for layer in integer_layers(graph)}
    assert set(layers) == {"stem", "first", "second", "shortcut", "head"}
    with_skip = {name for name, e in layers.items() if e.skip_scale is not None}
    assert with_skip == {"first", "second"}
    assert {n for n, e in layers.items() if e.has_relu} == {"stem", "first", "second"}
    assert {n for n, e in layers.items() if e.code_scale is None} == {"head"}
    steps = [n.target for n in graph.graph.nodes if n.op == "call_function"]
    assert steps[:2] == [codes_of, reals_of], "the input's codes, then only the mean's"


@pytest.mark.parametrize(
    ("name", "num_integer", "num_float"),
    [("residual", 5, 0), ("shuffling", 2, 1), ("signal", 3, 0), ("attending", 6, 2)],
)
def test_the_integer_graph_computes_what_the_quantized_model_does(name, num_integer, num_float):
    source, x = source_of(name)
    graph, kept = integer_graph(source.graph, real_type=torch.float32)
    assert (len(integer_layers(graph)), len(kept)) == (num_integer, num_float)
    assert all(row["why"] for row in kept)
    # Here no value lies in the middle of two codes; a flip of one code in a hundred would be 1e-3.
    expected = source(x)
    assert difference(graph(x), expected) < 1e-4
    assert graph(x[:3]).shape == expected[:3].shape, "another batch size"


@pytest.mark.parametrize(
    ("real_type", "bound"), [(torch.float16, 0.02), (torch.bfloat16, 0.05)], ids=str
)
def test_what_is_not_integer_computes_in_the_type_that_was_asked_for(real_type, bound):
    source, x = source_of("attending")
    graph, _ = integer_graph(source.graph, real_type=real_type)
    output = graph(x)
    assert output.dtype == real_type
    assert difference(output, source(x)) < bound


def test_a_layer_that_was_left_in_float_stays_and_says_why():
    _, x = source_of("residual")
    graph, kept = integer_graph(
        quantized(Residual(), x, float_layers=["first"]).graph, real_type=torch.float32
    )
    assert [row["layer"] for row in kept] == ["first"]
    assert "not quantized" in kept[0]["why"]
    assert torch.isfinite(graph(x)).all()


def test_the_quantized_graph_is_left_as_it_is():
    source, x = source_of("residual")
    before, code = source(x), copy.copy(source.graph.code)
    integer_graph(source.graph, real_type=torch.float16)
    assert source.graph.code == code
    assert torch.equal(source(x), before)
