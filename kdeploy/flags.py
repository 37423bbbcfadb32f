"""Doubts about a measurement: the names that records carry, what each means and what to do.

`bench` hangs these names on records, `report` explains them. The idea is hyperfine's: a doubt is
an enumerated warning with its remedy, never free text.
"""

from __future__ import annotations

from dataclasses import dataclass

# Bounds that several flags speak of, so that measuring and explaining cannot drift apart.
P99_MINIMUM_COUNT = 1000  # below it a p99 is little more than the maximum
BOUND_CONFIDENCE = 0.99  # that of MLPerf Inference's early stopping
UNSTABLE_VARIATION = 0.025  # quartile spread / median, no unit; trtexec's 2.5 %
STEADY_RATIO = 1.10  # slowest window / fastest window; perf_analyzer's 10 %


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """What a doubt means, and how to remove it."""

    meaning: str
    remedy: str


FLAGS: dict[str, Flag] = {
    "few_samples": Flag(
        meaning="too few samples for this number: a p50 needs 20, a p90 needs 100",
        remedy="measure longer: raise `effort` or `minimum_count` of the bench",
    ),
    "p99_bound": Flag(
        meaning=f"fewer than {P99_MINIMUM_COUNT} samples: not the p99, but a bound that it is"
        f" below, with {BOUND_CONFIDENCE * 100:g} % confidence",
        remedy=f"measure longer: `--effort standard`, or `minimum_count: {P99_MINIMUM_COUNT}`",
    ),
    "unstable": Flag(
        meaning=f"times vary by more than {UNSTABLE_VARIATION * 100:g} % around their median",
        remedy="let the machine rest, close other programs, measure longer",
    ),
    "unsteady_warm_up": Flag(
        meaning="the warm-up ended at its limit: no three windows in a row came within"
        f" {(STEADY_RATIO - 1) * 100:.0f} %",
        remedy="let the machine rest, or measure longer: `--effort standard` warms up longer too",
    ),
    "unstable_rounds": Flag(
        meaning=f"the median of a whole round is more than {(STEADY_RATIO - 1) * 100:.0f} % away"
        " from that of the others; the samples' file says which (`unstable_rounds`)",
        remedy="look for what else ran then; the interval shows how much it matters",
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
        meaning="a 2:4 sparse file of which not one layer ran in a sparse kernel",
        remedy="2:4 pays for wide layers on tensor cores only; ship the dense file here",
    ),
    "not_finite": Flag(
        meaning="NaN or infinite logits on some test items: they name no class, so that nothing is"
        " counted, and a gate on it fails",
        remedy="look at the first item that the reason names: an empty or constant one, a row that"
        " is masked as a whole, or a number beyond float16; mend the model and export it again",
    ),
    "dynamic": Flag(
        meaning="a dynamic model: what it computes depends on the item; the p50 may be that of"
        " early answers alone, and the p99 is that of the full path where more than 1 % take it",
        remedy="compare by latency.mean and latency.p99, on items as the device will see them",
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
        meaning="stand-ins computed it (floating point, or reference kernels): the accuracy holds,"
        " the time does not",
        remedy="export the model and measure the file, on the device where it is for one",
    ),
    "emulated_processor": Flag(
        meaning="ran under an emulator of this processor: answers hold, memory holds the emulator"
        " too, and times say nothing",
        remedy="measure on the device itself before quoting anything but accuracy",
    ),
    "slow_first_run": Flag(
        meaning="the first batch took much longer than the rest",
        remedy="run one batch at start-up, before the first request",
    ),
    "no_int8_instructions": Flag(
        meaning="INT8 on a processor without 8-bit dot products (VNNI, AMX, ARM's dot product)",
        remedy="expect little gain here, or measure on a processor that has them; 8-bit sums may"
        " saturate, so compare the accuracy too",
    ),
    "validation_seen": Flag(
        meaning="it was given with its weights and may have been trained on the validation items:"
        " its accuracy on them is no measure, nor is a difference to it",
        remedy="name a part that it has not seen (`validation:` in `data:`), or go by the tests",
    ),
}
