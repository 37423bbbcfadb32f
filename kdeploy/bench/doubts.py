"""Decide which doubts of `kdeploy.flags` a measurement carries. What they mean stands there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kdeploy.bench.stats import Floats, modified_z_scores, quartile_spread
from kdeploy.flags import P99_MINIMUM_COUNT, UNSTABLE_VARIATION
from kdeploy.machine import Machine
from kdeploy.runtimes.contract import Proof

MINIMUM_COUNTS = {"latency.p50": 20, "latency.p90": 100, "latency.p99": P99_MINIMUM_COUNT}
OUTLIER_Z_SCORE = 10.0
OUTLIER_SHARE = 0.01  # so many that they move the p99
SHORTEST_SECONDS = 5e-6  # a hundred times what reading the clock takes
SLOW_FIRST_RATIO = 10.0


def of_machine(machine: Machine) -> tuple[str, ...]:
    """Return the doubts about every time that is taken on this machine."""
    found = []
    if machine.is_virtual:
        found.append("virtual_machine")
    if machine.governor not in (None, "performance"):
        found.append("governor")
    return tuple(found)


def of_samples(rounds: Sequence[Floats], *, is_steady: bool) -> tuple[str, ...]:
    """Return the doubts that the samples of one cell raise."""
    samples = np.concatenate(rounds)
    found = []
    if not is_steady or quartile_spread(samples) > UNSTABLE_VARIATION:
        found.append("unstable")
    if np.mean(np.abs(modified_z_scores(samples)) > OUTLIER_Z_SCORE) > OUTLIER_SHARE:
        found.append("outliers")
    if np.median(samples) < SHORTEST_SECONDS:
        found.append("timer_resolution")
    return tuple(found)


def of_proof(proof: Proof | None) -> tuple[str, ...]:
    """Return `no_op_int8` for a quantized file that ran without one integer operator."""
    is_no_op = proof is not None and proof.is_quantized and proof.integer == 0
    return ("no_op_int8",) if is_no_op else ()


def of_count(metric: str, count: int) -> tuple[str, ...]:
    """Return `few_samples` where a percentile needs more."""
    return ("few_samples",) if count < MINIMUM_COUNTS.get(metric, 0) else ()


def of_first(first_seconds: float, median_seconds: float) -> tuple[str, ...]:
    """Return `slow_first_run` for a first batch unlike the rest."""
    return ("slow_first_run",) if first_seconds > SLOW_FIRST_RATIO * median_seconds else ()
