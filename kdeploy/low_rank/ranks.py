"""How large a rank: by energy, by noise, as a fraction of the full one, or to a common budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from kdeploy.low_rank.layer_sites import LayerSite
from kdeploy.low_rank.vbmf import vbmf_rank

Ranks = tuple[int, ...]
HALVINGS = 30  # of the interval of energies, in the search for a budget


class Factorisation(Protocol):
    """A weight taken apart; it can be put together again at any ranks, one for each mode."""

    @property
    def full(self) -> Ranks:
        """The ranks at which nothing is lost."""
        ...

    @property
    def spectra(self) -> tuple[Tensor, ...]:
        """Squared singular values of each mode, falling."""
        ...

    @property
    def unfoldings(self) -> tuple[Tensor, ...]:
        """The weight itself as a matrix, for each mode."""
        ...

    def skeleton(self, ranks: Ranks) -> nn.Sequential:
        """Return the layers without numbers, on the device `meta`."""
        ...

    def layers(self, ranks: Ranks) -> nn.Sequential:
        """Return the layers."""
        ...

    def energy(self, ranks: Ranks) -> float:
        """Return the fraction of the squared singular values that is kept."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RankTarget:
    """What decides the ranks."""

    rule: Literal["energy", "rank_ratio", "vbmf", "macs", "parameters"]
    value: float = 1.0
    """Of `energy` and `rank_ratio`; of the others, the fraction of the whole cost that stays."""
    round_to: int = 1

    @property
    def is_budget(self) -> bool:
        return self.rule in ("macs", "parameters")

    def ranks(self, found: Factorisation) -> Ranks:
        """Return the ranks of one layer by itself."""
        if self.rule == "energy":
            return ranks_of_energy(found, self.value, self.round_to)
        if self.rule == "vbmf":
            wanted = [_vbmf(matrix) for matrix in found.unfoldings]
        else:
            wanted = [math.ceil(self.value * full) for full in found.full]
        return _rounded(wanted, found.full, self.round_to)


def ranks_of_energy(found: Factorisation, energy: float, round_to: int = 1) -> Ranks:
    """Return the least ranks that keep this fraction of the energy.

    Several modes lose at most the sum of what each of them loses, so each may lose its share.
    """
    # Of HOSVD: the squared error is at most the sum of the modes' (De Lathauwer et al., 2000).
    loss = (1 - energy) / len(found.spectra)
    wanted = [_rank_of_energy(spectrum, 1 - loss) for spectrum in found.spectra]
    return _rounded(wanted, found.full, round_to)


def energy_of_budget(cost: Callable[[float], float], budget: float) -> float:
    """Return the greatest energy whose cost is within the budget, 0 when there is none.

    Args:
        cost: Of all layers together, at one energy; it never falls as the energy rises.
        budget: In the same unit.
    """
    if cost(1.0) <= budget:
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if cost(middle) <= budget else (low, middle)
    return low


def kept_energy(spectrum: Tensor, rank: int) -> float:
    """Return the fraction of the sum of `spectrum` that its first `rank` values have."""
    total = float(spectrum.sum())
    return float(spectrum[:rank].sum()) / total if total else 1.0


def _rank_of_energy(spectrum: Tensor, energy: float) -> int:
    sums = torch.cumsum(spectrum, 0)
    # Rounding must not ask for values that add nothing.
    wanted = energy * sums[-1] * (1 - 1e-12)
    return min(int((sums < wanted).sum()) + 1, len(spectrum))


def _vbmf(matrix: Tensor) -> int:
    values = torch.linalg.svdvals(matrix.double()).numpy()
    return vbmf_rank(np.asarray(values), (matrix.shape[0], matrix.shape[1]))


def _rounded(wanted: list[int], full: Ranks, round_to: int) -> Ranks:
    """Round up, for what was asked to be kept shall be kept, and at least to one multiple."""
    return tuple(
        min(max(-(-rank // round_to), 1) * round_to, most)
        for rank, most in zip(wanted, full, strict=True)
    )


def choose(
    found: Mapping[str, Factorisation],
    target: RankTarget,
    cost: Callable[[Mapping[str, Ranks]], float],
) -> dict[str, Ranks]:
    """Return the ranks of each layer.

    Args:
        found: Layers by name.
        target: What decides.
        cost: What the whole model costs with these ranks, for a target that is a budget.
    """
    if not target.is_budget:
        return {name: target.ranks(one) for name, one in found.items()}

    def at(energy: float) -> dict[str, Ranks]:
        return {name: ranks_of_energy(one, energy, target.round_to) for name, one in found.items()}

    return at(energy_of_budget(lambda energy: cost(at(energy)), target.value * cost({})))


class Candidates:
    """What factorised layers would save at any ranks, told without making them."""

    def __init__(self, sites: Sequence[LayerSite], found: Mapping[str, Factorisation]) -> None:
        self.sites = {site.name: site for site in sites}
        self.found = found
        self._dense = {site.name: (site.macs(site.layer), site.weights) for site in sites}
        self._factored = cache(self._cost)
        self._out_of_reach: dict[str, int] = {}

    def saved(self, name: str, ranks: Ranks, what: Literal["macs", "parameters"] = "macs") -> int:
        """Return what falls away; 0 where MACs or weights would not, and where it was refused."""
        macs, weights = self._factored(name, ranks)
        dense_macs, dense_weights = self._dense[name]
        if macs >= min(dense_macs, self._out_of_reach.get(name, macs + 1)):
            return 0
        if weights >= dense_weights:
            return 0
        return dense_macs - macs if what == "macs" else dense_weights - weights

    def refuse(self, name: str, ranks: Ranks) -> None:
        """Take back the offer at these ranks, and at any that cost as much or more."""
        # By MACs, not by ranks: two ranks of a Tucker core may cost the same in other shapes.
        self._out_of_reach[name] = self._factored(name, ranks)[0]

    def weights(self, name: str, ranks: Ranks) -> tuple[int, int]:
        """Return how many weights the layer has now, and its factors would have."""
        return self._dense[name][1], self._factored(name, ranks)[1]

    def _cost(self, name: str, ranks: Ranks) -> tuple[int, int]:
        skeleton = self.found[name].skeleton(ranks)
        weights = sum(p.numel() for key, p in skeleton.named_parameters() if "weight" in key)
        return self.sites[name].macs(skeleton), weights
