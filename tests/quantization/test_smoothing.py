from __future__ import annotations

import copy

import torch
from torch import nn

from kdeploy.quantization.capture import capture
from kdeploy.quantization.pt2e import QuantizedModel, observe
from kdeploy.quantization.smoothing import ALPHA, find_norms, largest_values, smooth_norms
from kdeploy.quantization.unshared_parameters import own_layers


class Block(nn.Module):
    def __init__(self, *, outlier=1.0):
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.plain = nn.LayerNorm(16), nn.LayerNorm(16, elementwise_affine=False)
        self.query, self.key = nn.Linear(16, 16), nn.Linear(16, 16, bias=False)
        self.both, self.head = nn.LayerNorm(16), nn.Linear(16, 3)
        with torch.no_grad():
            self.norm.weight[3] = outlier

    def forward(self, x):
        seen = self.norm(x)
        x = self.plain(self.query(seen) * self.key(seen.transpose(0, 1)).transpose(0, 1))
        seen = self.both(x)
        return (seen + self.head(seen).mean(-1, keepdim=True)).mean(1)


X = torch.randn(8, 5, 16, generator=torch.Generator().manual_seed(1))


def found(model, x=X):
    graph_module = capture(model, x[:2])
    norms, declined = find_norms(graph_module, model, own_layers(graph_module, model))
    return graph_module, norms, declined


def smoothed(model, x=X):
    twin = copy.deepcopy(model)
    graph_module, norms, _ = found(twin, x)
    smooth_norms(norms, largest_values(graph_module, [n.node for n in norms], [x[:4], x[4:]]))
    return twin


def test_it_keeps_what_the_model_computes():
    model = Block(outlier=100.0).eval()
    torch.testing.assert_close(smoothed(model)(X), model(X), rtol=1e-4, atol=1e-5)


def test_it_keeps_what_an_encoder_of_pytorch_computes(network):
    model, x = network("attending")
    _, norms, _ = found(model, x)
    assert len(norms) == 2
    torch.testing.assert_close(smoothed(model, x)(x), model(x), rtol=1e-4, atol=1e-5)


def test_norms_without_a_factor_or_with_other_readers_are_declined():
    _, norms, declined = found(Block())
    assert [{layer.name for layer in n.readers} for n in norms] == [{"query.weight", "key.weight"}]
    assert sorted(declined.values()) == [
        "it has no factor of its own",
        "not only linear layers read it",
    ]


def test_the_factor_is_the_one_of_the_paper():
    model = Block(outlier=30.0).eval()
    twin = smoothed(model)
    values = model.norm(X).abs().amax((0, 1))
    weights = torch.maximum(model.query.weight.abs().amax(0), model.key.weight.abs().amax(0))
    factor = values**ALPHA / weights ** (1 - ALPHA)
    torch.testing.assert_close(twin.norm.weight, model.norm.weight / factor)
    torch.testing.assert_close(twin.query.weight, model.query.weight * factor)


def test_an_outlying_channel_no_longer_costs_the_others_their_resolution():
    model = Block(outlier=100.0).eval()
    with torch.no_grad():
        model.query.weight[:, 3] /= 100
        model.key.weight[:, 3] /= 100
        expected = model(X)

    def error(given):
        ranges = observe(given, X[:2], [X], choice="min_max")
        with torch.no_grad():
            small = QuantizedModel(given, X[:2], ranges=ranges, profile="cpu")
            return float((small(X) - expected).norm() / expected.norm())

    assert error(smoothed(model)) < 0.5 * error(model)
