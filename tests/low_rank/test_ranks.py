"""Ranks by each aim."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from kdeploy.low_rank.core import core_of
from kdeploy.low_rank.layer_sites import LayerSite
from kdeploy.low_rank.pair import pair_of
from kdeploy.low_rank.ranks import (
    Candidates,
    RankTarget,
    choose,
    energy_of_budget,
    kept_energy,
    ranks_of_energy,
)
from kdeploy.torch_module.complexity import count_macs


def found(*spectra, unfoldings=()):
    return SimpleNamespace(
        full=tuple(map(len, spectra)),
        spectra=tuple(torch.tensor(s, dtype=torch.float64) for s in spectra),
        unfoldings=unfoldings,
    )


@pytest.mark.parametrize(
    ("energy", "rank"), [(0.1, 1), (0.5, 1), (0.51, 2), (0.8, 2), (0.95, 3), (0.96, 4), (1.0, 4)]
)
def test_the_rank_is_the_least_that_keeps_the_energy(energy, rank):
    assert ranks_of_energy(found([10, 6, 3, 1, 0, 0]), energy) == (rank,)


def test_two_modes_share_what_may_be_lost():
    # Of 20, 10 % may go; 1 of each mode.
    assert ranks_of_energy(found([10, 9, 1], [12, 7, 0.5, 0.5]), 0.9) == (2, 2)
    assert ranks_of_energy(found([10, 8.9, 1.1], [12, 7, 0.5, 0.5]), 0.9) == (3, 2)


@pytest.mark.parametrize(("ratio", "rank"), [(0.01, 4), (0.3, 4), (0.5, 8), (0.95, 10)])
def test_a_rank_is_rounded_up_but_never_beyond_the_full_one(ratio, rank):
    target = RankTarget(rule="rank_ratio", value=ratio, round_to=4)
    assert target.ranks(found([1] * 10)) == (rank,)


def test_vbmf_looks_at_the_weights_themselves():
    numbers = torch.Generator().manual_seed(0)
    signal = torch.randn(40, 3, generator=numbers) @ torch.randn(3, 60, generator=numbers)
    matrix = signal + 0.1 * torch.randn(40, 60, generator=numbers)
    one = found([1] * 40, unfoldings=(matrix,))
    assert choose({"a": one}, RankTarget(rule="vbmf"), cost=lambda ranks: 0.0) == {"a": (3,)}


def test_one_energy_for_all_layers_reaches_the_budget():
    layers = {"a": found([8, 4, 2, 1]), "b": found([1, 1, 1, 1])}

    def cost(ranks):
        return 8 if not ranks else sum(rank for (rank,) in ranks.values())

    assert choose(layers, RankTarget(rule="macs", value=1.0), cost) == {"a": (4,), "b": (4,)}
    # `a` keeps 80 % in two, `b` needs four for that.
    assert choose(layers, RankTarget(rule="macs", value=0.75), cost) == {"a": (2,), "b": (4,)}
    for fraction in (0.3, 0.5, 0.75, 0.9):
        assert cost(choose(layers, RankTarget(rule="macs", value=fraction), cost)) <= 8 * fraction


def test_the_greatest_energy_within_the_budget_is_found():
    assert energy_of_budget(lambda energy: 10 * energy, 4) == pytest.approx(0.4, abs=1e-6)
    assert energy_of_budget(lambda energy: 10 * energy, 12) == 1
    assert energy_of_budget(lambda energy: 10.0, 4) == pytest.approx(0, abs=1e-6)


def test_a_matrix_of_zeros_loses_nothing():
    assert kept_energy(torch.zeros(3), 1) == 1
    assert ranks_of_energy(found([0, 0, 0]), 0.9) == (1,)


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
    candidates = Candidates(
        [LayerSite(names=("a",), layer=layer, inputs=(x, x))], {"a": make(layer)}
    )
    factors = make(layer).layers(ranks)
    saved = 2 * 2 * (count_macs(layer, x) - count_macs(factors, x))
    weights = sum(one.weight.numel() for one in factors)
    assert candidates.saved("a", ranks) == saved > 0
    assert candidates.saved("a", ranks, "parameters") == layer.weight.numel() - weights
    assert candidates.weights("a", ranks) == (layer.weight.numel(), weights)


@pytest.fixture
def candidates():
    layer = nn.Linear(8, 8)
    site = LayerSite(names=("fc",), layer=layer, inputs=(torch.randn(2, 8),))
    return Candidates([site], {"fc": pair_of(layer, form="channel")})


def test_what_costs_as_much_as_the_layer_saves_nothing(candidates):
    assert [candidates.saved("fc", (rank,)) for rank in (3, 4, 5)] == [2 * 16, 0, 0]


def test_weights_must_fall_as_well():
    # A 1x1 kernel with padding has more outputs than inputs: few MACs where weights are many.
    layer, x = nn.Conv2d(8, 8, 1, padding=2), torch.randn(2, 8, 1, 1)
    site = LayerSite(names=("a",), layer=layer, inputs=(x,))
    candidates = Candidates([site], {"a": core_of(layer, iterations=0)})
    macs = site.macs(candidates.found["a"].skeleton((7, 8)))
    assert macs < site.macs(layer)
    assert candidates.saved("a", (7, 8)) == 0


def test_a_refused_offer_stands_for_those_that_cost_more(candidates):
    candidates.refuse("fc", (2,))
    assert [candidates.saved("fc", (rank,)) for rank in (1, 2, 3)] == [2 * 48, 0, 0]
