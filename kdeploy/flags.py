"""Doubts about a measurement: the names that records carry, what each means and what to do.

`bench` hangs these names on records, `report` explains them. The idea is hyperfine's: a doubt is
an enumerated warning with its remedy, never free text.
"""

from __future__ import annotations

from dataclasses import dataclass

# Bounds that several flags speak of, so that measuring and explaining cannot drift apart.
P99_MINIMUM_COUNT = 1000  # below it a p99 is little more than the maximum
UNSTABLE_VARIATION = 0.025  # quartile spread / median, no unit; trtexec's 2.5 %


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """What a doubt means, and how to remove it."""

    meaning: str
    remedy: str


FLAGS: dict[str, Flag] = {
    "few_samples": Flag(
        meaning=f"too few samples for this number; a p99 needs {P99_MINIMUM_COUNT}",
        remedy="measure longer: raise `minimum_count` or `minimum_seconds` of the bench",
    ),
    "unstable": Flag(
        meaning=f"times vary by more than {UNSTABLE_VARIATION * 100:g} % around their median",
        remedy="let the machine rest, close other programs, measure longer",
    ),
    "virtual_machine": Flag(
        meaning="measured in a virtual machine, whose host may take time away unseen",
        remedy="repeat on the device itself before quoting absolute times; ratios suffer less",
    ),
    "other_load": Flag(
        meaning="other programs used the processor during the measurement",
        remedy="stop them, or bind them to other cores, and measure again",
    ),
    "governor": Flag(
        meaning="the frequency governor is not `performance`: the clock follows the load",
        remedy="set it yourself (`cpupower frequency-set -g performance`); kdeploy never does",
    ),
    "throttled": Flag(
        meaning="the clock was lowered during the measurement (heat or power)",
        remedy="cool the device or quote sustained numbers, measured for 10 minutes",
    ),
    "fallback": Flag(
        meaning="parts ran on another device or provider than the one asked for",
        remedy="see which operators are unsupported with `kdeploy doctor`, or choose the runtime",
    ),
    "no_op_int8": Flag(
        meaning="an INT8 file in which not one operator ran as integers",
        remedy="export with the profile of this runtime (`--profile cpu` or `tensorrt`)",
    ),
    "sparse_not_used": Flag(
        meaning="a 2:4 sparse file whose sparse kernels were not chosen",
        remedy="2:4 pays for wide layers on tensor cores only; ship the dense file here",
    ),
    "random_inputs": Flag(
        meaning="timed on random inputs, not on data",
        remedy="name the data set of the model (`data:` of the recipe)",
    ),
    "outliers": Flag(
        meaning="some times lie far from the others (modified z-score above 10)",
        remedy="look for other load; p50 is robust, mean and p99 are not",
    ),
    "swapped": Flag(
        meaning="the process was swapped to disk during the measurement",
        remedy="free memory, or lower the batch size",
    ),
    "timer_resolution": Flag(
        meaning="a batch takes hardly longer than the timer can resolve",
        remedy="raise the batch size, and divide",
    ),
    "emulated": Flag(
        meaning="the numbers are emulated in floating point: the accuracy holds, the time does not",
        remedy="export the model and measure the file",
    ),
    "slow_first_run": Flag(
        meaning="the first batch took much longer than the rest",
        remedy="run one batch at start-up, before the first request",
    ),
    "reduced_range": Flag(
        meaning="this processor's 8-bit sums saturate (no VNNI), so weights use 7 bits",
        remedy="expect less gain than with VNNI or AMX, and compare the accuracy in this runtime",
    ),
}
