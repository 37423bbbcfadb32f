"""By how much a candidate misses the gates, for a sampler that learns where they hold.

`c = (value - limit) / limit`, as constrained optimisers have it: 0 or less where a gate holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kdeploy.gate import Gate, times_better
from kdeploy.measurement import METRICS
from kdeploy.units import format_quantity

BEFORE_TRAINING = ("latency", "throughput", "size", "parameters", "macs", "peak_memory", "load")
"""Beginnings of metrics that do not depend on what the weights are."""
TOLERANCE = 0.1
"""Of the bound: an untrained network is pruned a little otherwise, and timed but shortly."""


def is_known_before_training(metric: str) -> bool:
    """Return whether an untrained network has the metric of the trained one."""
    return metric.startswith(BEFORE_TRAINING) or metric in ("memory_over_runtime", "cold_start")


def violation(gate: Gate, values: Mapping[str, float], baseline: Mapping[str, float]) -> float:
    """Return how far a gate is missed, as a share of its bound; 1 where nothing was measured."""
    value, reference = values.get(gate.metric), baseline.get(gate.metric)
    if value is None or (gate.needs_baseline and reference is None):
        return 1.0
    if gate.form == "times":
        assert reference is not None, "a gate that compares has its baseline"
        return (gate.bound - times_better(value, reference, gate.metric)) / gate.bound
    limit = _limit(gate, reference)
    missed = limit - value if gate.form in ("at_least", "lose") else value - limit
    return missed / abs(limit) if limit else missed


def violations(
    gates: Sequence[Gate], values: Mapping[str, float], baseline: Mapping[str, float]
) -> dict[str, float]:
    """Return how far each gate is missed, by its text."""
    return {gate.text: violation(gate, values, baseline) for gate in gates}


def missed(
    gates: Sequence[Gate], values: Mapping[str, float], found: Mapping[str, float]
) -> list[str]:
    """Return a phrase for each gate that does not hold."""
    return [
        f"{gate.metric} {_shown(gate, values)} misses `{gate.text}` by {found[gate.text]:.1%}"
        for gate in gates
        if found[gate.text] > 0
    ]


def _limit(gate: Gate, reference: float | None) -> float:
    if gate.form == "lose":
        return (reference or 0.0) - gate.bound
    if gate.form == "grow":
        return (reference or 0.0) * (1 + gate.bound)
    return gate.bound


def _shown(gate: Gate, values: Mapping[str, float]) -> str:
    value = values.get(gate.metric)
    return "(not measured)" if value is None else format_quantity(value, METRICS[gate.metric].unit)
