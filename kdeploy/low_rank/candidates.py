"""What factors in the places of layers would save, at any ranks, without making them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Literal

from kdeploy.low_rank.layer_sites import LayerSite
from kdeploy.low_rank.ranks import Factorisation, Ranks


class Candidates:
    """Places, their factorisations, and the difference that one makes to the other."""

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
        self._out_of_reach[name] = self._factored(name, ranks)[0]

    def weights(self, name: str, ranks: Ranks) -> tuple[int, int]:
        """Return how many weights the place has now, and would have."""
        return self._dense[name][1], self._factored(name, ranks)[1]

    def _cost(self, name: str, ranks: Ranks) -> tuple[int, int]:
        skeleton = self.found[name].skeleton(ranks)
        weights = sum(p.numel() for key, p in skeleton.named_parameters() if "weight" in key)
        return self.sites[name].macs(skeleton), weights
