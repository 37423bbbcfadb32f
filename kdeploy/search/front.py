"""Which candidates no other beats, and how much of the space of objectives they cover.

Hypervolume: Zitzler and Thiele, IEEE Transactions on Evolutionary Computation 3, 1999. Crowding and
ranks: Deb et al., NSGA-II, IEEE Transactions on Evolutionary Computation 6, 2002.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

from kdeploy.measurement import METRICS
from kdeploy.search.trials import Trial

Costs = tuple[float, ...]
"""One number an objective, the less the better."""


def costs(values: Mapping[str, float], objectives: Sequence[str]) -> Costs | None:
    """Return errors of fractions, logarithms of times and sizes; None where one is missing."""
    if any(m not in values or not math.isfinite(values[m]) for m in objectives):
        return None
    return tuple(_cost(m, values[m]) for m in objectives)


def _cost(metric: str, value: float) -> float:
    known = METRICS[metric]
    if known.better == "higher":
        return 1 - value if known.unit == "fraction" else -value
    return math.log10(value) if known.unit in ("s", "B", "count", "J/item") and value > 0 else value


def dominates(one: Costs, other: Costs) -> bool:
    """Return whether one is nowhere worse and somewhere better."""
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))


def front_of(points: Sequence[Costs]) -> list[int]:
    """Return the places of the points that no other dominates; of equal ones the first."""
    return [
        i
        for i, point in enumerate(points)
        if not any(dominates(other, point) for other in points) and point not in points[:i]
    ]


def ranks(points: Sequence[Costs]) -> list[int]:
    """Return the non-dominated rank of each point: 0 on the front, 1 on that of the rest, ..."""
    found, left, rank = [0] * len(points), list(range(len(points))), 0
    while left:
        here = [points[i] for i in left]
        best = {
            i for i, p in zip(left, here, strict=True) if not any(dominates(o, p) for o in here)
        }
        for i in best:
            found[i] = rank
        left = [i for i in left if i not in best]
        rank += 1
    return found


def hypervolume(points: Sequence[Costs], reference: Costs) -> float:
    """Return the volume between the points and a reference that is worse than all that count."""
    inside = [p for p in points if all(a < b for a, b in zip(p, reference, strict=True))]
    if not inside:
        return 0.0
    if len(reference) == 1:
        return reference[0] - min(p[0] for p in inside)
    # Slices along the last objective: between two values of it the others cover the same.
    levels = [*sorted({p[-1] for p in inside}), reference[-1]]
    return sum(
        (above - level) * hypervolume([p[:-1] for p in inside if p[-1] <= level], reference[:-1])
        for level, above in itertools.pairwise(levels)
    )


def front_trials(trials: Sequence[Trial], objectives: Sequence[str]) -> list[Trial]:
    """Return the feasible trials that no other one beats, in their order."""
    known = [(t, c) for t in trials if t.is_feasible and (c := costs(t.values, objectives))]
    return [known[i][0] for i in front_of([c for _, c in known])]
