from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from kdeploy.quantization.fake_quant import fake_quantized
from kdeploy.quantization.pt2e import QuantizedModel, observe
from kdeploy.quantization.sensitivity import sensitivities


@pytest.fixture
def fake():
    model, x = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval(), torch.randn(32, 4)
    ranges = observe(model, x[:2], [x], choice="min_max")
    return model, x, ranges, fake_quantized(model, x[:2], ranges=ranges, profile="cpu").eval()


def test_each_layer_is_measured_as_if_it_alone_were_deployed(fake):
    model, x, ranges, graph = fake
    labels = model(x).argmax(-1)
    found = {
        s.layer: s for s in sensitivities(graph, [(x[:20], labels[:20]), (x[20:], labels[20:])])
    }
    assert set(found) == {"0", "2"}
    with torch.no_grad():
        for name, other in (("0", "2"), ("2", "0")):
            alone = QuantizedModel(model, x[:2], ranges=ranges, profile="cpu", float_layers=[other])
            expected, outputs = model(x).numpy(), alone(x).numpy()
            decibels = 10 * np.log10((expected**2).sum() / ((outputs - expected) ** 2).sum())
            assert found[name].sqnr_decibels == pytest.approx(decibels, rel=1e-3)
            drop = 1 - np.mean(outputs.argmax(-1) == labels.numpy())
            assert found[name].accuracy_drop == pytest.approx(drop)


def test_the_worst_comes_first_and_everything_is_on_again(fake):
    _, x, _, graph = fake
    labels = torch.zeros(32, dtype=torch.int64)
    before = graph(x)
    found = sensitivities(graph, [(x, labels)])
    assert found == sorted(found, key=lambda s: (-s.accuracy_drop, s.sqnr_decibels))
    assert torch.equal(graph(x), before)


def test_negative_labels_do_not_count(fake):
    model, x, _, graph = fake
    labels = torch.where(torch.arange(32) < 16, model(x).argmax(-1), -100)
    found, half = sensitivities(graph, [(x, labels)]), sensitivities(graph, [(x[:16], labels[:16])])
    assert [s.accuracy_drop for s in found] == [s.accuracy_drop for s in half]
