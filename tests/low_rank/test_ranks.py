"""Ranks by each aim."""

from types import SimpleNamespace

import pytest
import torch

from kdeploy.low_rank.ranks import (
    RankTarget,
    choose,
    energy_of_budget,
    kept_energy,
    ranks_of_energy,
)


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
