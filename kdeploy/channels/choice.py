"""Choose which channels go: the least important first, to a ratio or to a budget."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from kdeploy.channels.coupling import Slot, Unit


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What a choice must keep to."""

    scope: Literal["global", "local"] = "global"
    """Rank the channels of all layers together, or of each layer for itself."""
    round_to: int = 1
    """Layers keep a multiple of it, or fewer channels than it."""
    max_ratio: float = 1.0
    """The fraction of any layer's channels that may go."""


def balance(units: Sequence[Unit], scores: Sequence[float]) -> list[Unit]:
    """Return units of which each takes the same number of channels from every group of a place.

    Units that lie in one group each are put together across the groups, rank by rank. Those that
    find no counterpart are left out: their channels stay.
    """
    ranked = sorted(zip(scores, units, strict=True), key=_first)
    for place in sorted({place for unit in units for place in unit.shares}):
        even: list[tuple[float, Unit]] = []
        lonely: dict[int, list[list[tuple[float, Unit]]]] = {}
        for pair in ranked:
            share = pair[1].shares.get(place, (0,))
            taken = [group for group, number in enumerate(share) if number]
            if len(set(share)) == 1:
                even.append(pair)
            elif len(taken) == 1:
                columns = lonely.setdefault(share[taken[0]], [[] for _ in share])
                columns[taken[0]].append(pair)
        rows = [row for columns in lonely.values() for row in zip(*columns, strict=False)]
        ranked = sorted(even + [_together(row) for row in rows], key=_first)
    return [unit for _, unit in ranked]


class Ranking:
    """Units from the least important to the most, over all layers and family by family."""

    def __init__(self, units: Sequence[Unit], scores: Sequence[float]) -> None:
        ranked = sorted(zip(scores, units, strict=True), key=_first)
        numbers: dict[object, int] = {}
        self.order = [numbers.setdefault(unit.family, len(numbers)) for _, unit in ranked]
        self.families: list[list[Unit]] = [[] for _ in numbers]
        for number, (_, unit) in zip(self.order, ranked, strict=True):
            self.families[number].append(unit)


def choose(ranking: Ranking, ratio: float, rules: Rules) -> list[Unit]:
    """Return the units that go when the fraction `ratio` of all may, by the rules."""
    lowest = Counter(ranking.order[: round(ratio * len(ranking.order))])
    gone = []
    for number, members in enumerate(ranking.families):
        is_global = rules.scope == "global"
        count = lowest[number] if is_global else round(ratio * len(members))
        kept = _rounded(len(members) - count, len(members), members[0].width, rules)
        gone += members[: len(members) - kept]
    return gone


def choose_to_budget(
    ranking: Ranking, rules: Rules, *, cost: Callable[[list[Unit]], float], budget: float
) -> list[Unit]:
    """Return the choice whose cost comes closest to `budget`, by bisection on the ratio."""
    steps = max(len(ranking.order), 1000)
    low, high = 0, steps
    while high - low > 1:
        middle = (low + high) // 2
        is_dear = cost(choose(ranking, middle / steps, rules)) > budget
        low, high = (middle, high) if is_dear else (low, middle)
    choices = [choose(ranking, step / steps, rules) for step in (low, high)]
    return min(choices, key=lambda choice: abs(cost(choice) - budget))


def _first(pair: tuple[float, Unit]) -> float:
    return pair[0]


def _together(pairs: Sequence[tuple[float, Unit]]) -> tuple[float, Unit]:
    channels: dict[Slot, tuple[int, ...]] = {}
    shares: dict[str, tuple[int, ...]] = {}
    for _, unit in pairs:
        for slot, indices in unit.channels.items():
            channels[slot] = tuple(sorted({*channels.get(slot, ()), *indices}))
        for place, share in unit.shares.items():
            sums = zip(shares.get(place, (0,) * len(share)), share, strict=True)
            shares[place] = tuple(map(sum, sums))
    channels = {slot: channels[slot] for slot in sorted(channels)}
    return fmean(number for number, _ in pairs), Unit(channels=channels, shares=shares)


def _rounded(kept: int, count: int, width: int, rules: Rules) -> int:
    """Return how many of `count` units of a family stay, when `kept` would."""
    least = max(1, math.ceil(count * (1 - rules.max_ratio) - 1e-9))
    kept = max(kept, least)
    if kept * width <= rules.round_to or kept == count:
        return kept
    # Where groups make the width odd, no count is a multiple: then any will do.
    step = rules.round_to // width if rules.round_to % width == 0 else 1
    nearest = step * round(kept / step)
    return min(count, nearest if nearest >= least else nearest + step)
