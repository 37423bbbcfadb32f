from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import nn

from kdeploy.quantization.capture import capture
from kdeploy.quantization.equalization import equalize_layers, find_pairs
from kdeploy.quantization.fold import fold_batch_norms
from kdeploy.quantization.pt2e import QuantizedModel, observe
from kdeploy.quantization.unshared_parameters import own_layers


def pairs_of(model, x):
    graph_module = capture(model, x[:2])
    pairs, declined = find_pairs(graph_module, own_layers(graph_module, model))
    return [(a.name, b.name) for a, b in pairs], declined


def equalized(model, x):
    twin = copy.deepcopy(model)
    graph_module = capture(twin, x[:2])
    equalize_layers(find_pairs(graph_module, own_layers(graph_module, twin))[0])
    return twin


def chain(*, groups=1):
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(8, 16, 3, padding=1, groups=groups), nn.LeakyReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 8, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)),
    )
    return unbalanced(model).eval()


def unbalanced(model):
    """Move scale between channels, as training with weight decay on batch norms leaves it."""
    torch.manual_seed(1)
    with torch.no_grad():
        factor = 10 ** torch.empty(8).uniform_(-1.5, 1.5)
        model[0].weight *= factor.reshape(-1, 1, 1, 1)
        model[0].bias *= factor
        width = 8 // model[2].groups
        spread = factor.reshape(model[2].groups, 1, width).expand(-1, 16 // model[2].groups, -1)
        model[2].weight /= spread.reshape(16, width, 1, 1)
    return model


X = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_it_keeps_what_the_model_computes(groups):
    model = chain(groups=groups)
    twin = equalized(model, X)
    assert not torch.equal(twin[0].weight, model[0].weight)
    torch.testing.assert_close(twin(X), model(X), rtol=1e-4, atol=1e-5)


def test_pairs_reach_through_activations_pools_and_depthwise_layers():
    found, declined = pairs_of(chain(groups=8), X)
    names = [f"{i}.weight" for i in (0, 2, 5, 8)]
    assert found == list(itertools.pairwise(names))
    assert declined == {"8.weight": "the output follows"}


def test_both_layers_of_a_pair_then_have_the_same_ranges():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    with torch.no_grad():
        model[0].weight[2] *= 50
    twin = equalized(model, torch.randn(4, 4))
    rows, columns = twin[0].weight.abs().amax(1), twin[2].weight.abs().amax(0)
    torch.testing.assert_close(rows, columns)
    # sqrt(r1 r2), formula 11 of the paper.
    expected = (model[0].weight.abs().amax(1) * model[2].weight.abs().amax(0)).sqrt()
    torch.testing.assert_close(rows, expected)


def test_a_dead_channel_stays_as_it_is():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    with torch.no_grad():
        model[0].weight[2] = 0
    twin = equalized(model, torch.randn(4, 4))
    assert torch.equal(twin[0].bias[2], model[0].bias[2])
    assert twin[2].weight.isfinite().all()


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))
        self.d = nn.Linear(48, 2)

    def forward(self, x):
        x = nn.functional.relu6(self.a(x))
        x = x + self.b(x)
        return self.d(torch.relu(self.c(x)).flatten(1))


def test_what_would_change_the_numbers_is_declined_with_the_reason():
    found, declined = pairs_of(Branching(), torch.randn(2, 3, 4, 4))
    assert found == []
    assert "relu6" in declined["a.weight"]
    assert "add" in declined["b.weight"]
    assert declined["c.weight"]


def test_a_shared_layer_is_left_alone():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    model[2] = model[0]
    found, _ = pairs_of(model, torch.randn(2, 4))
    assert found == []


def test_every_pattern_keeps_its_numbers(architecture):
    model, x = architecture
    folded = fold_batch_norms(model, x[:2])
    torch.testing.assert_close(equalized(folded, x)(x), model(x), rtol=1e-3, atol=1e-4)


def sqnr(model, x, expected):
    ranges = observe(model, x[:2], [x], choice="min_max")
    with torch.no_grad():
        error = QuantizedModel(model, x[:2], ranges=ranges, profile="cpu")(x) - expected
    return float(10 * torch.log10(expected.square().mean() / error.square().mean()))


def test_unbalanced_channels_lose_less_by_eight_bits():
    model = chain(groups=8)
    with torch.no_grad():
        expected = model(X)
    assert sqnr(equalized(model, X), X, expected) > sqnr(model, X, expected) + 6
