"""Which layers can be replaced, and why the others cannot."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from kdeploy.low_rank.layer_sites import find_sites, put


class Peculiar(nn.Module):
    """One layer for each reason."""

    def __init__(self):
        super().__init__()
        self.plain = nn.Linear(8, 8)
        self.twice = nn.Linear(8, 8)
        self.read = nn.Linear(8, 8)
        self.asked = nn.Linear(8, 8)
        self.idle = nn.Linear(8, 8)
        self.hooked = nn.Linear(8, 8)
        self.hooked.register_forward_hook(lambda *_: None)
        self.special = nn.modules.linear.NonDynamicallyQuantizableLinear(8, 8)
        self.tied, self.other = nn.Linear(8, 8), nn.Linear(8, 8)
        self.other.weight = self.tied.weight
        self.depthwise = nn.Conv1d(8, 8, 1, groups=8)
        self.grouped = nn.Conv1d(8, 8, 1, groups=2)
        self.transposed = nn.ConvTranspose1d(8, 8, 1)
        self.also = self.twice

    def forward(self, x):
        x = self.also(self.twice(self.plain(x))) + functional.linear(x, self.read.weight)
        x = x + (1 if isinstance(self.asked, nn.Linear) else 2) * self.asked(x)
        x = self.other(self.tied(self.special(self.hooked(x))))
        return self.transposed(self.grouped(self.depthwise(x[..., None])))[..., 0]


@pytest.fixture
def model():
    return Peculiar().eval()


def test_every_layer_is_a_place_or_has_a_reason(model):
    sites, reasons = find_sites(model, torch.randn(2, 8), ["pla*"])
    assert [site.names for site in sites] == [("twice", "also")]
    assert reasons == {
        "plain": "ignored (`pla*`)",
        "read": "does not run on the data",
        "asked": "the model asks for its type",
        "idle": "does not run on the data",
        "hooked": "has hooks, which would be lost",
        "special": "a NonDynamicallyQuantizableLinear, not a plain layer of torch.nn",
        "tied": "shares its weight with another layer",
        "other": "shares its weight with another layer",
        "depthwise": "a depthwise convolution (8 groups)",
        "grouped": "a grouped convolution (2 groups)",
        "transposed": "a transposed convolution",
    }


def test_a_layer_whose_weight_the_model_reads_beside_calling_it_stays():
    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.free = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return self.fc(self.free(x)) / self.fc.weight.norm()

    sites, reasons = find_sites(Reader().eval(), torch.randn(2, 4))
    assert [site.name for site in sites] == ["free"]
    assert reasons["fc"].startswith("the model reads it by itself (AttributeError")


def test_a_look_leaves_the_model_as_it_was(model):
    names, x = list(model.state_dict()), torch.randn(2, 8)
    before = model(x)
    find_sites(model, x)
    assert list(model.state_dict()) == names
    assert torch.equal(model(x), before)
    assert not model.plain._forward_pre_hooks


def test_a_place_knows_what_each_call_was_given(model):
    sites, _ = find_sites(model, torch.randn(2, 8))
    twice = next(site for site in sites if site.name == "twice")
    assert [x.shape for x in twice.inputs] == [(2, 8), (2, 8)]
    assert twice.macs(twice.layer) == 2 * 2 * 64  # calls x rows x weights
    assert twice.weights == 64


def test_a_shared_layer_is_replaced_everywhere(model):
    site = next(p for p in find_sites(model, torch.randn(2, 8))[0] if p.name == "twice")
    new = nn.Sequential(nn.Identity())
    assert put(model, site, new) is model
    assert model.twice is new
    assert model.also is new


def test_a_model_can_be_the_layer_itself():
    layer = nn.Linear(3, 2)
    [site], reasons = find_sites(layer, torch.randn(2, 3))
    new = nn.Sequential(nn.Linear(3, 2))
    assert put(layer, site, new) is new
    assert not reasons
