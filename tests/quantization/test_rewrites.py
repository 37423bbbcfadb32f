from __future__ import annotations

import torch

from kdeploy.quantization.capture import BATCH_NORMS, capture
from kdeploy.quantization.rewrites import into_integer_operators, is_global_mean

aten = torch.ops.aten


def rewritten(model, x):
    return into_integer_operators(capture(model, x[:2]))


def test_rewriting_keeps_the_numbers(architecture):
    model, x = architecture
    torch.testing.assert_close(rewritten(model, x)(x), model(x), rtol=1e-4, atol=1e-5)


def test_silu_and_hardswish_become_products(network):
    model, x = network("squeezing")
    targets = [n.target for n in rewritten(model, x).graph.nodes]
    assert not {aten.silu.default, aten.hardswish.default} & set(targets)
    assert targets.count(aten.mul.Tensor) == 3


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
