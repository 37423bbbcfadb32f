"""Choose which channels go: the least important first, to a ratio or to a budget."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from types import MappingProxyType
from typing import Literal

from kdeploy.pruning.coupling import LayerDim, PruningGroup

Kept = list[int]
"""How many groups stay, family by family of a ranking."""
Family = tuple[tuple[LayerDim, int], ...]
CLOSE = 0.01  # of the budget


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What a choice must keep to."""

    scope: Literal["global", "local", "isomorphic"] = "global"
    """Rank the channels of all layers together, of each layer for itself, or of layers that are
    built alike (`Ranking.kinds`)."""
    round_to: int = 1
    """Layers keep a multiple of it, or fewer channels than it."""
    max_ratio: float = 1.0
    """The fraction of any layer's channels that may go, of those that it had at first."""


def balance(groups: Sequence[PruningGroup], scores: Sequence[float]) -> list[PruningGroup]:
    """Return groups that each take as many channels from every group of a grouped layer.

    Those that lie in one of a layer's groups are put together across them, rank by rank. Those
    that find no counterpart are left out: their channels stay.
    """
    ranked = sorted(zip(scores, groups, strict=True), key=_first)
    for place in sorted({place for group in groups for place in group.shares}):
        even: list[tuple[float, PruningGroup]] = []
        unpaired: dict[int, list[list[tuple[float, PruningGroup]]]] = {}
        for pair in ranked:
            share = pair[1].shares.get(place, (0,))
            taken = [conv_group for conv_group, number in enumerate(share) if number]
            if len(set(share)) == 1:  # each of the layer's groups loses as many
                even.append(pair)
            elif len(taken) == 1:
                columns = unpaired.setdefault(share[taken[0]], [[] for _ in share])
                columns[taken[0]].append(pair)
        rows = [row for columns in unpaired.values() for row in zip(*columns, strict=False)]
        ranked = sorted(even + [_together(row) for row in rows], key=_first)
    return [group for _, group in ranked]


class Ranking:
    """Groups from the least important to the most, over all layers and family by family.

    Args:
        groups: In any order.
        scores: Of the groups.
        kinds: What families are ranked together in the scope `isomorphic`; others are alone.
        sizes: How many groups families had before any went; others have all of theirs.
    """

    def __init__(
        self,
        groups: Sequence[PruningGroup],
        scores: Sequence[float],
        *,
        kinds: Mapping[Family, Hashable] = MappingProxyType({}),
        sizes: Mapping[Family, int] = MappingProxyType({}),
    ) -> None:
        ranked = sorted(zip(scores, groups, strict=True), key=_first)
        numbers: dict[Family, int] = {}
        self.order = [numbers.setdefault(group.family, len(numbers)) for _, group in ranked]
        self.families: list[list[PruningGroup]] = [[] for _ in numbers]
        for number, (_, group) in zip(self.order, ranked, strict=True):
            self.families[number].append(group)
        self.kinds = [kinds.get(family, number) for family, number in numbers.items()]
        self.sizes = {
            family: sizes.get(family, len(self.families[number]))
            for family, number in numbers.items()
        }

    def orders(self, scope: Literal["global", "local", "isomorphic"]) -> list[list[int]]:
        """Return the families of the groups that are ranked together, the least important first."""
        if scope == "global":
            return [self.order]
        together: dict[Hashable, list[int]] = defaultdict(list)
        for number in self.order:
            together[number if scope == "local" else self.kinds[number]].append(number)
        return list(together.values())

    def groups(self, kept: Kept) -> list[PruningGroup]:
        """Return the groups that go when each family keeps so many."""
        pairs = zip(self.families, kept, strict=True)
        return [group for family, count in pairs for group in family[: len(family) - count]]

    def channels(self, kept: Kept) -> Counter[LayerDim]:
        """Return how many channels each side of a layer then loses."""
        gone: Counter[LayerDim] = Counter()
        for family, count in zip(self.families, kept, strict=True):
            for layer_dim, width in family[0].family:
                gone[layer_dim] += width * (len(family) - count)
        return gone


def choose(ranking: Ranking, ratio: float, rules: Rules) -> Kept:
    """Return how many groups of each family stay when the fraction `ratio` of all may go."""
    gone: Counter[int] = Counter()
    for order in ranking.orders(rules.scope):
        gone.update(order[: round(ratio * len(order))])
    return [
        _rounded(len(members) - gone[number], number, ranking, rules)
        for number, members in enumerate(ranking.families)
    ]


def choose_to_budget(
    ranking: Ranking, rules: Rules, *, cost: Callable[[Kept], float], budget: float
) -> Kept:
    """Return the choice whose cost comes closest to `budget`, by bisection on the ratio.

    Rounding makes steps: where they leave the cost more than 1 % off, single families are moved
    by one step as long as that brings it closer.
    """
    # A ratio finer than one group: the bisection can then reach every choice.
    steps = max(len(ranking.order), 1000)
    low, high = 0, steps
    while high - low > 1:
        middle = (low + high) // 2
        is_dear = cost(choose(ranking, middle / steps, rules)) > budget
        low, high = (middle, high) if is_dear else (low, middle)

    def distance(kept: Kept) -> float:
        return abs(cost(kept) - budget)

    best = min((choose(ranking, step / steps, rules) for step in (low, high)), key=distance)
    while distance(best) > CLOSE * budget:
        closer = min([best, *_moved(best, ranking, rules)], key=distance)
        if closer == best:
            break
        best = closer
    return best


def _moved(kept: Kept, ranking: Ranking, rules: Rules) -> Iterator[Kept]:
    """Yield the choices in which one family keeps one step more or less."""
    for number, members in enumerate(ranking.families):
        step = _step(members, rules)
        for change in (-step, -1, 1, step):
            count = _rounded(kept[number] + change, number, ranking, rules)
            if count != kept[number]:
                yield [*kept[:number], count, *kept[number + 1 :]]


def _first(pair: tuple[float, PruningGroup]) -> float:
    return pair[0]


def _together(pairs: Sequence[tuple[float, PruningGroup]]) -> tuple[float, PruningGroup]:
    channels: dict[LayerDim, tuple[int, ...]] = {}
    shares: dict[str, tuple[int, ...]] = {}
    for _, group in pairs:
        for layer_dim, indices in group.channels.items():
            channels[layer_dim] = tuple(sorted({*channels.get(layer_dim, ()), *indices}))
        for place, share in group.shares.items():
            sums = zip(shares.get(place, (0,) * len(share)), share, strict=True)
            shares[place] = tuple(map(sum, sums))
    channels = {layer_dim: channels[layer_dim] for layer_dim in sorted(channels)}
    return fmean(number for number, _ in pairs), PruningGroup(channels=channels, shares=shares)


def _rounded(kept: int, number: int, ranking: Ranking, rules: Rules) -> int:
    """Return how many groups of a family stay, when by their importance `kept` would."""
    members = ranking.families[number]
    count, step = len(members), _step(members, rules)
    at_first = ranking.sizes[members[0].family]
    # 10 * (1 - 0.7) is 3.0000000000000004 in floating point: without the 1e-9 four would stay.
    least = max(1, math.ceil(at_first * (1 - rules.max_ratio) - 1e-9))
    kept = min(max(kept, least), count)
    # Narrower than one block of channels: a multiple would only make it wider.
    if kept * members[0].width <= rules.round_to or kept == count:
        return kept
    nearest = step * round(kept / step)
    return min(count, nearest if nearest >= least else nearest + step)


def _step(members: Sequence[PruningGroup], rules: Rules) -> int:
    # Where groups make the width odd, no count is a multiple: then any will do.
    width = members[0].width
    return rules.round_to // width if rules.round_to % width == 0 else 1
