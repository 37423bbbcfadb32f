from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from kdeploy.errors import ModelError
from kdeploy.quantization.capture import BATCH_NORMS, add_constant, capture, flat_outputs

aten = torch.ops.aten


def targets(graph_module):
    return [node.target for node in graph_module.graph.nodes]


def test_a_captured_graph_computes_what_the_model_computes(architecture):
    model, x = architecture
    graph_module = capture(model, x[:2])
    for count in (1, 3, 16):
        expected = model(x[:count])
        torch.testing.assert_close(graph_module(x[:count]), expected, rtol=1e-4, atol=1e-5)


def test_the_model_is_left_as_it_was(network):
    model, x = network("squeezing")
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    capture(model, x[:2])
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_batch_norms_behind_a_layer_are_folded(network):
    for name in ("concatenating", "signal", "perceptron"):
        model, x = network(name)
        assert not set(targets(capture(model, x[:2]))) & set(BATCH_NORMS)


def test_a_batch_norm_stays_where_another_operator_reads_its_input(network):
    model, x = network("pre_activated")
    assert sum(t in BATCH_NORMS for t in targets(capture(model, x[:2]))) == 2


def test_a_layer_used_twice_is_folded_with_the_norm_of_each_use():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)
            self.norms = nn.ModuleList([nn.BatchNorm2d(3), nn.BatchNorm2d(3)])

        def forward(self, x):
            return self.norms[1](self.conv(self.norms[0](self.conv(x))))

    model = Twice()
    with torch.no_grad():
        model(torch.randn(64, 3, 4, 4) * 3 + 1)
    x = torch.randn(4, 3, 4, 4)
    graph_module = capture(model, x)
    assert not set(targets(graph_module)) & set(BATCH_NORMS)
    torch.testing.assert_close(graph_module(x), model.eval()(x), rtol=1e-4, atol=1e-5)


def test_what_depends_on_parameters_alone_is_a_constant():
    class Standardised(nn.Conv2d):
        def forward(self, x):
            weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
            return nn.functional.conv2d(x, weight / weight.std(), self.bias)

    model = nn.Sequential(Standardised(3, 4, 3), nn.Flatten(), nn.Linear(16, 2))
    x = torch.randn(2, 3, 4, 4)
    graph_module = capture(model, x)
    calls = [n.target for n in graph_module.graph.nodes if n.op == "call_function"]
    assert aten.conv2d.default in calls
    assert aten.mean.dim not in calls
    torch.testing.assert_close(graph_module(x), model(x))


def test_a_model_that_fixes_its_batch_is_refused_with_the_reason():
    class Fixed(nn.Module):
        def forward(self, x):
            return x.reshape(2, -1)

    with pytest.raises(ModelError, match="`Fixed` cannot be traced with a dynamic batch") as caught:
        capture(Fixed(), torch.randn(2, 3))
    assert "reshape" in caught.value.hint


def test_an_answer_of_several_tensors_stays_what_it_is():
    class Two(nn.Module):
        def forward(self, x):
            return {"sums": [x + 1, x + 2], "product": x * 2, "name": "two", "none": None}

    graph, x = capture(Two(), torch.randn(2, 3)), torch.randn(5, 3)
    answer = copy.deepcopy(graph)(x)
    assert list(answer) == ["sums", "product", "name", "none"]
    assert (answer["name"], answer["none"]) == ("two", None)
    torch.testing.assert_close([*answer["sums"], answer["product"]], [x + 1, x + 2, x * 2])
    torch.testing.assert_close(flat_outputs(graph)(x), (x + 1, x + 2, x * 2))


def test_an_answer_without_a_tensor_is_refused():
    class Nothing(nn.Module):
        def forward(self, x):
            return {"sums": 3}

    with pytest.raises(ModelError, match="returns no tensor") as caught:
        capture(Nothing(), torch.randn(2, 3))
    assert "dict" in caught.value.hint


def test_constants_added_after_others_are_gone_have_names_of_their_own():
    class Positions(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("long", torch.arange(12.0))

        def forward(self, x):
            first = self.long[:8][:4] * 2  # what is folded twice leaves a constant behind
            return x * first + self.long[4:8]

    x = torch.randn(3, 4)
    graph_module = capture(Positions(), x)
    kept = {name: value.clone() for name, value in graph_module.named_buffers()}
    for number in range(3):
        add_constant(
            graph_module, torch.full((2,), float(number)), next(iter(graph_module.graph.nodes))
        )
    held = dict(graph_module.named_buffers())
    assert len(held) == len(kept) + 3
    assert all(torch.equal(held[name], value) for name, value in kept.items())
