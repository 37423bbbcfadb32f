from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from kdeploy.errors import ModelError
from kdeploy.quantization.capture import BATCH_NORMS, capture
from kdeploy.quantization.rewrites import into_integer_operators, is_global_mean

aten = torch.ops.aten
X = torch.linspace(-8, 8, 64).reshape(4, 16)


def rewritten(model, x):
    return into_integer_operators(capture(model, x[:2]))


def test_rewriting_keeps_the_numbers(architecture):
    model, x = architecture
    torch.testing.assert_close(rewritten(model, x)(x), model(x), rtol=1e-4, atol=1e-5)


def test_silu_becomes_a_product_and_hardswish_stays_whole(network):
    model, x = network("squeezing")
    targets = [n.target for n in rewritten(model, x).graph.nodes]
    assert aten.silu.default not in targets
    assert targets.count(aten.mul.Tensor) == 2
    assert targets.count(aten.hardswish.default) == 1


def test_attention_becomes_two_products_and_a_softmax(network):
    model, x = network("attending")
    targets = [n.target for n in rewritten(model, x).graph.nodes]
    assert aten.scaled_dot_product_attention.default not in targets
    assert targets.count(aten.matmul.default) == 2


def test_attention_with_a_mask_or_a_scale_of_its_own_keeps_its_numbers():
    x = torch.randn(2, 3, 4, 8)
    attend = functional.scaled_dot_product_attention
    for function in (lambda x: attend(x, x, x, is_causal=True), lambda x: attend(x, x, x, scale=2)):
        torch.testing.assert_close(rewritten(Lambda(function), x)(x), function(x))


@pytest.mark.parametrize(
    ("function", "target"),
    [
        (lambda x: x * functional.relu6(x + 3.0) / 6.0, aten.hardswish.default),
        (lambda x: functional.hardtanh(x + 3, 0, 6) * x / 6, aten.hardswish.default),
        (lambda x: (x + 3).clamp(0, 6) / 6, aten.hardsigmoid.default),
    ],
)
def test_a_hard_gate_that_is_spelled_out_is_joined(function, target):
    graph_module = rewritten(Lambda(function), X)
    assert [n.target for n in graph_module.graph.nodes if n.op == "call_function"] == [target]
    torch.testing.assert_close(graph_module(X), function(X))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: functional.relu6(x + 2) / 6,
        lambda x: functional.relu6(x + 3) / 5,
        lambda x: (x + 1) * functional.relu6(x + 3) / 6,
        lambda x: (x + 3).clamp(0, 5) / 6,
    ],
)
def test_what_only_looks_like_a_hard_gate_stays(function):
    targets = {n.target for n in rewritten(Lambda(function), X).graph.nodes}
    assert not {aten.hardswish.default, aten.hardsigmoid.default} & targets


class Lambda(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def test_every_mean_over_positions_keeps_its_dimensions(network):
    for name in ("concatenating", "shuffling", "squeezing", "signal"):
        model, x = network(name)
        means = [n for n in rewritten(model, x).graph.nodes if n.target is aten.mean.dim]
        assert means, name
        assert all(is_global_mean(mean) and mean.args[2] for mean in means)


def test_a_norm_that_stands_alone_becomes_a_depthwise_convolution(network):
    model, x = network("pre_activated")
    graph_module = rewritten(model, x)
    nodes = [n for n in graph_module.graph.nodes if n.target is aten.conv2d.default]
    assert not any(n.target in BATCH_NORMS for n in graph_module.graph.nodes)
    assert sum(len(n.args) > 6 and n.args[6] in (8, 16) for n in nodes) == 2


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM, nn.RNN])
def test_recurrent_layers_are_refused(kind):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.recurrent, self.head = kind(4, 6, batch_first=True), nn.Linear(6, 5)

        def forward(self, x):
            return self.head(self.recurrent(x)[0][:, -1])

    name = kind.__name__.lower()
    with pytest.raises(ModelError, match=f"`{name}.*is a recurrent layer") as caught:
        rewritten(Net(), torch.randn(2, 7, 4))
    assert "hidden size" in caught.value.hint


@pytest.mark.parametrize("affine", [True, False])
def test_a_batch_norm_without_statistics_becomes_sums_and_products(affine):
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4, affine=affine, track_running_stats=False)
    if affine:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    model, x = nn.Sequential(nn.Conv2d(3, 4, 1), norm).eval(), 3 * torch.randn(4, 3, 5, 5) + 1
    graph_module = into_integer_operators(capture(model, x[:2]))
    targets = {node.target for node in graph_module.graph.nodes}
    assert torch.ops.aten.batch_norm.default not in targets
    with torch.no_grad():
        torch.testing.assert_close(graph_module(x), model(x), rtol=1e-5, atol=1e-5)
