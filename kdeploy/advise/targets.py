"""What targets ask of a model, and how likely a range meets it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kdeploy.advise.measured import Measured
from kdeploy.advise.rules import Expected, Range
from kdeploy.gate import Gate

USUAL_LOSS = 0.01
"""What accuracy may fall by where no target says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """How many times faster and smaller, and what may be lost; None: nothing is asked."""

    latency: float | None = None
    is_mean: bool = False
    """Whether the mean latency is what is asked for."""
    size: float | None = None
    lost: float = USUAL_LOSS


def needs_of(targets: Sequence[Gate], measured: Measured) -> Needs:
    """Return what gates ask, as ratios to the model that was measured; the strictest of each."""
    base = measured.variants["float"]
    here = {"size": float(base.size), "parameters": float(base.parameters or 1)}
    latency, size, lost, is_mean = 1.0, 1.0, USUAL_LOSS, False
    for gate in targets:
        if gate.metric.startswith("latency.") or gate.metric == "throughput":
            is_mean |= gate.metric in ("latency.mean", "throughput")
            latency = max(latency, _ratio(gate, base.seconds))
        elif gate.metric in here:
            size = max(size, _ratio(gate, here[gate.metric]))
        elif gate.metric == "accuracy.top1" and gate.form == "lose":
            lost = gate.bound
    return Needs(
        latency=latency if latency > 1 else None,
        is_mean=is_mean,
        size=size if size > 1 else None,
        lost=lost,
    )


def _ratio(gate: Gate, base: float) -> float:
    if gate.form == "times":
        return gate.bound
    if gate.form == "at_most" and gate.bound > 0:
        return base / gate.bound
    return 1.0


def fit(expected: Expected, needs: Needs) -> tuple[float, float]:
    """Return how likely all is met, and how fast the result is: what decides between equals."""
    speed = expected.speed_up
    promise = 1 - _share_below(expected.lost, needs.lost, is_above=True)
    if needs.latency is not None:
        reached = (1.0, 1.0) if expected.is_mean_only and not needs.is_mean else speed
        promise *= 1 - _share_below(reached, needs.latency)
    if needs.size is not None:
        promise *= 1 - _share_below(expected.smaller, needs.size)
    middle = (speed[0] + speed[1]) / 2
    if needs.latency is None and needs.size is None:
        # As fast as it gets: a likely small gain is worth less than a likely large one.
        return promise * min(1.0, middle / 10), middle
    return promise, middle


def _share_below(span: Range, bound: float, *, is_above: bool = False) -> float:
    """Return the share of a range that is below a bound, or above it."""
    low, high = span
    if high <= low:
        return float(low > bound) if is_above else float(low < bound)
    below = min(1.0, max(0.0, (bound - low) / (high - low)))
    return 1 - below if is_above else below
