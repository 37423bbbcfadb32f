from __future__ import annotations

import pytest
import torch
from torch import nn

from kdeploy.quantization.fold import NORMS, fold_batch_norms


def norms(model):
    return [name for name, module in model.named_modules() if isinstance(module, NORMS)]


def test_the_folded_model_computes_the_same(architecture):
    model, x = architecture
    folded = fold_batch_norms(model, x[:2])
    torch.testing.assert_close(folded(x), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["concatenating", "shuffling", "squeezing", "signal"])
def test_no_batch_norm_behind_a_layer_is_left_and_the_model_is_as_it_was(network, name):
    model, x = network(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    folded = fold_batch_norms(model, x[:2])
    assert norms(model)
    assert not norms(folded)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_modes_and_what_is_trained_are_kept(network):
    model, x = network("concatenating")
    model.train()
    model.stem.requires_grad_(False)
    folded = fold_batch_norms(model, x[:2])
    assert all(module.training for module in folded.modules())
    trained = {name for name, p in folded.named_parameters() if p.requires_grad}
    assert not [name for name in trained if name.startswith("stem")]
    assert {"left.0.weight", "left.0.bias"} <= trained


def test_a_norm_that_another_operator_goes_past_stays(network):
    model, x = network("pre_activated")
    assert norms(fold_batch_norms(model, x[:2])) == ["norm", "last"]


class Reusing(nn.Module):
    """A layer used twice, a norm used twice, two layers with one weight."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv2d(3, 3, 1) for _ in range(6)])
        self.norms = nn.ModuleList([nn.BatchNorm2d(3) for _ in range(5)])
        self.layers[5].weight = self.layers[4].weight

    def forward(self, x):
        twice, one, other, _, tied, same = self.layers
        for layer, norm in ((twice, 0), (twice, 1), (one, 2), (other, 2), (tied, 3), (same, 4)):
            x = self.norms[norm](layer(x))
        return x


def test_what_is_used_twice_or_shared_stays():
    model = Reusing()
    x = torch.randn(4, 3, 4, 4)
    with torch.no_grad():
        model(x * 3 + 1)
    folded = fold_batch_norms(model.eval(), x)
    assert norms(folded) == norms(model)
    torch.testing.assert_close(folded(x), model(x))


def test_a_norm_that_does_more_stays():
    class Activated(nn.BatchNorm2d):
        def forward(self, x):
            return torch.relu(super().forward(x))

    model = nn.Sequential(nn.Conv2d(3, 4, 1), Activated(4)).eval()
    x = torch.randn(2, 3, 4, 4)
    folded = fold_batch_norms(model, x)
    assert isinstance(folded[1], Activated)
    assert torch.equal(folded(x), model(x))


def test_an_artefact_can_tell_the_difference(tiny_model, store_model):
    from kdeploy.store.model_io import load_model

    model, x = tiny_model(), torch.randn(4, 1, 12, 12)
    folded = fold_batch_norms(model, x)
    assert norms(model)
    assert not norms(folded)
    assert torch.equal(load_model(store_model(folded))(x), folded(x))
