"""What factors save, before they are made."""

import pytest
import torch
from torch import nn

from kdeploy.low_rank.candidates import Candidates
from kdeploy.low_rank.core import core_of
from kdeploy.low_rank.layer_sites import LayerSite
from kdeploy.low_rank.pair import pair_of
from kdeploy.torch_module.complexity import count_macs


@pytest.mark.parametrize(
    ("make", "ranks"),
    [
        (lambda layer: pair_of(layer, form="channel"), (3,)),
        (lambda layer: pair_of(layer, form="spatial"), (3,)),
        (lambda layer: core_of(layer, iterations=1), (3, 4)),
    ],
)
def test_the_saving_is_the_difference_to_the_layers(make, ranks):
    layer, x = nn.Conv2d(8, 12, 3, 2, 1), torch.randn(2, 8, 9, 7)
    offers = Candidates([LayerSite(names=("a",), layer=layer, inputs=(x, x))], {"a": make(layer)})
    factors = make(layer).layers(ranks)
    saved = 2 * 2 * (count_macs(layer, x) - count_macs(factors, x))
    weights = sum(one.weight.numel() for one in factors)
    assert offers.saved("a", ranks) == saved > 0
    assert offers.saved("a", ranks, "parameters") == layer.weight.numel() - weights
    assert offers.weights("a", ranks) == (layer.weight.numel(), weights)


@pytest.fixture
def offers():
    layer = nn.Linear(8, 8)
    place = LayerSite(names=("fc",), layer=layer, inputs=(torch.randn(2, 8),))
    return Candidates([place], {"fc": pair_of(layer, form="channel")})


def test_what_costs_as_much_as_the_layer_saves_nothing(offers):
    assert [offers.saved("fc", (rank,)) for rank in (3, 4, 5)] == [2 * 16, 0, 0]


def test_weights_must_fall_as_well():
    # A 1x1 kernel with padding has more outputs than inputs: few MACs where weights are many.
    layer, x = nn.Conv2d(8, 8, 1, padding=2), torch.randn(2, 8, 1, 1)
    place = LayerSite(names=("a",), layer=layer, inputs=(x,))
    offers = Candidates([place], {"a": core_of(layer, iterations=0)})
    macs = place.macs(offers.found["a"].skeleton((7, 8)))
    assert macs < place.macs(layer)
    assert offers.saved("a", (7, 8)) == 0


def test_a_refused_offer_stands_for_those_that_cost_more(offers):
    offers.refuse("fc", (2,))
    assert [offers.saved("fc", (rank,)) for rank in (1, 2, 3)] == [2 * 48, 0, 0]
