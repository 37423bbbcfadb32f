"""Choose which channels go so that the model takes a fraction of its latency: by measuring.

Multiply-accumulates tell latency badly: widths beside the blocks that a processor computes in
cost as much as the next block, and some layers wait for memory. So candidates are measured, and
multiply-accumulates only say where to look next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from kdeploy.pruning.choice import Kept, Ranking, Rules, choose

LOWEST, HIGHEST = 0.92, 0.98
"""Of the fraction that is asked for: between them the search ends. The upper one leaves room for
another run, at another moment, to stay below the fraction."""
MOST_CANDIDATES = 10
TOO_NEAR = 0.02  # two costs, relative: what lies between them, measuring cannot tell apart
NUM_GUESSES = 3  # by the line through what is known, before the bisection
SHORT_SECONDS, LONG_SECONDS = 0.5, 3.0
STEPS = 1000

Measure = Callable[[Kept, float], tuple[float, float]]
"""Latency of the whole model and of a choice, in seconds, measured for at least so many seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyTrial:
    """One measurement of a choice, in turns with the whole model."""

    kept: Kept
    cost: float
    """Multiply-accumulates, as a fraction of the whole model's."""
    latency_seconds: float
    whole_latency_seconds: float
    is_confirmed: bool
    """It was measured for long."""

    @property
    def ratio(self) -> float:
        return self.latency_seconds / self.whole_latency_seconds


def choose_to_latency(
    ranking: Ranking,
    rules: Rules,
    *,
    cost: Callable[[Kept], float],
    measure: Measure,
    fraction: float,
) -> tuple[LatencyTrial, list[LatencyTrial]]:
    """Return the choice that is slowest within the fraction, and all measurements.

    The choices of all ratios, from the widest to the narrowest, are searched by three guesses and
    then by bisection, at most MOST_CANDIDATES of them. Whatever would be returned is measured once
    more and longer, and that number counts. Latency need not fall with each choice: of all that
    was measured the best is taken. Where nothing is fast enough, it is the fastest.

    Args:
        ranking: Of all groups.
        rules: What a choice must keep to.
        cost: Fraction of the whole model's multiply-accumulates.
        measure: Measures a choice.
        fraction: Of the whole model's latency that may be taken.
    """
    trials: list[LatencyTrial] = []
    latest: dict[int, LatencyTrial] = {}
    choices = _choices(ranking, rules)
    costs = [cost(kept) for kept in choices]

    def look(index: int, *, is_long: bool = False) -> LatencyTrial:
        whole, own = measure(choices[index], LONG_SECONDS if is_long else SHORT_SECONDS)
        latest[index] = LatencyTrial(
            kept=choices[index],
            cost=costs[index],
            latency_seconds=own,
            whole_latency_seconds=whole,
            is_confirmed=is_long,
        )
        trials.append(latest[index])
        return latest[index]

    _search(look, costs, fraction)
    # Each turn confirms one more choice, and `latest` does not grow: it ends.
    while not (best := _best(latest.values(), fraction)).is_confirmed:
        look(next(index for index, trial in latest.items() if trial is best), is_long=True)
    return best, trials


def _choices(ranking: Ranking, rules: Rules) -> list[Kept]:
    """Return all different choices, from the whole model to the least that may stay."""
    choices: list[Kept] = []
    for step in range(STEPS + 1):
        kept = choose(ranking, step / STEPS, rules)
        if not choices or kept != choices[-1]:
            choices.append(kept)
    return choices


def _search(look: Callable[..., LatencyTrial], costs: Sequence[float], fraction: float) -> None:
    """Look at choices until one lies where it should, or nothing is left between two."""
    # The choice behind the last one stands for a model that takes no time.
    slow, fast = 0, len(costs)
    # Before anything is measured, latency is taken for proportional to the cost.
    ratios = {slow: costs[0], fast: 0.0}
    costs = [*costs, 0.0]
    if fast == 1:
        look(0)
    for number in range(MOST_CANDIDATES):
        if fast - slow < 2 or costs[slow] - costs[fast] < TOO_NEAR * costs[slow]:
            return
        index = (slow + fast) // 2
        if number < NUM_GUESSES:
            wanted = fraction * (LOWEST + HIGHEST) / 2
            # Regula falsi on latency against cost, between the two nearest choices that are known.
            part = (wanted - ratios[fast]) / max(ratios[slow] - ratios[fast], 1e-9)
            wanted = costs[fast] + part * (costs[slow] - costs[fast])
            index = min(range(slow + 1, fast), key=lambda r: abs(costs[r] - wanted))
        trial = look(index)
        if _is_right(trial, fraction):
            trial = look(index, is_long=True)
            if _is_right(trial, fraction):
                return
        ratios[index] = trial.ratio
        slow, fast = (index, fast) if trial.ratio > HIGHEST * fraction else (slow, index)


def _is_right(trial: LatencyTrial, fraction: float) -> bool:
    return LOWEST * fraction <= trial.ratio <= HIGHEST * fraction


def _best(trials: Iterable[LatencyTrial], fraction: float) -> LatencyTrial:
    """Return the slowest of those that are right; or within the fraction; or the fastest."""
    by_ratio = sorted(trials, key=lambda trial: trial.ratio)
    right = [trial for trial in by_ratio if _is_right(trial, fraction)]
    within = [trial for trial in by_ratio if trial.ratio <= fraction]
    return (right or within or by_ratio[:1])[-1]
