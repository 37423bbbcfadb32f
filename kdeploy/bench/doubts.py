"""Decide which doubts of `kdeploy.flags` a measurement carries. What they mean stands there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kdeploy.bench.stats import Floats, modified_z_scores, quartile_spread
from kdeploy.flags import STEADY_RATIO, UNSTABLE_VARIATION
from kdeploy.machine import INT8_INSTRUCTION_SETS, Machine
from kdeploy.runtimes.contract import Proof

MINIMUM_COUNTS = {50.0: 20, 90.0: 100}
"""By percentile; a p99 of few samples is a bound, or nothing."""
OUTLIER_Z_SCORE = 10.0  # standard deviations, as hyperfine: 14.826 median absolute deviations
OUTLIER_SHARE = 0.01  # so many that they move the p99
SHORTEST_SECONDS = 5e-6  # a hundred times what reading the clock takes
SLOW_FIRST_RATIO = 10.0  # of the first run to the median


def of_machine(machine: Machine) -> tuple[str, ...]:
    """Return the doubts about every time that is taken on this machine."""
    found = []
    if machine.is_virtual:
        found.append("virtual_machine")
    if machine.governor not in (None, "performance"):
        found.append("governor")
    return tuple(found)


def of_emulation(machine: Machine) -> tuple[str, ...]:
    """Return the doubt about every number of a processor that is none."""
    return ("emulated_processor",) if machine.emulated_on else ()


def of_warm_up(*, is_steady: bool) -> tuple[str, ...]:
    """Return `unsteady_warm_up` where no three windows agreed."""
    return () if is_steady else ("unsteady_warm_up",)


def of_samples(rounds: Sequence[Floats]) -> tuple[str, ...]:
    """Return the doubts that the samples of one configuration raise."""
    samples = np.concatenate(rounds)
    found = []
    if quartile_spread(samples) > UNSTABLE_VARIATION:
        found.append("unstable")
    if unstable_rounds(rounds):
        found.append("unstable_rounds")
    if np.mean(np.abs(modified_z_scores(samples)) > OUTLIER_Z_SCORE) > OUTLIER_SHARE:
        found.append("outliers")
    if np.median(samples) < SHORTEST_SECONDS:
        found.append("timer_resolution")
    return tuple(found)


def unstable_rounds(rounds: Sequence[Floats]) -> list[int]:
    """Return the numbers, from 0, of the rounds whose median lies far from that of the others."""
    medians = np.array([np.median(samples) for samples in rounds])
    middle = np.median(medians)
    is_far = (medians > STEADY_RATIO * middle) | (middle > STEADY_RATIO * medians)
    return [int(number) for number in np.flatnonzero(is_far)]


def of_proof(proof: Proof | None) -> tuple[str, ...]:
    """Return the doubts about what really ran: other kernels, or another device, than asked."""
    if proof is None:
        return ()
    found = {
        "fallback": proof.elsewhere > 0,
        # A runtime that cannot see its kernels has none that are eligible, and raises no doubt.
        "no_op_int8": proof.is_quantized and proof.eligible > 0 and proof.integer == 0,
        "sparse_not_used": proof.sparse_eligible > 0 and proof.sparse == 0,
        "emulated": proof.is_emulated,
    }
    return tuple(flag for flag, is_raised in found.items() if is_raised)


def of_integers(proof: Proof | None, device: str, machine: Machine) -> tuple[str, ...]:
    """Return `no_int8_instructions` where integer kernels ran on a processor without them."""
    is_on_cpu = device == "cpu" and proof is not None and proof.integer > 0
    can = INT8_INSTRUCTION_SETS & set(machine.instruction_sets)
    return ("no_int8_instructions",) if is_on_cpu and not can else ()


def of_memory(*, swapped_bytes: int) -> tuple[str, ...]:
    """Return `swapped` where a part of the process lies on disk."""
    return ("swapped",) if swapped_bytes else ()


def of_count(percent: float, count: int) -> tuple[str, ...]:
    """Return `few_samples` where a percentile needs more."""
    return ("few_samples",) if count < MINIMUM_COUNTS.get(percent, 0) else ()


def of_first(first_seconds: float, median_seconds: float) -> tuple[str, ...]:
    """Return `slow_first_run` for a first batch unlike the rest."""
    return ("slow_first_run",) if first_seconds > SLOW_FIRST_RATIO * median_seconds else ()
