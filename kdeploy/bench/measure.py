"""The timing loop: warm up until times are steady, then take them one by one.

Runs in the child process. The steady-state rule (three windows within 10 %) is that of NVIDIA's
perf_analyzer; "at least a time and at least a count" is MLPerf Inference's.
"""

from __future__ import annotations

import gc
import itertools
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdeploy.flags import STEADY_RATIO

Batch = Any
"""An array, or a mapping from the names of inputs to arrays."""
Infer = Callable[[Batch], Any]
STEADY_WINDOWS = 3  # whose medians agree: then it is warm
MEDIAN_COUNT = 1000  # samples are enough for the median of a window
# Before each round, for threads that slept and caches that another process has filled.
AWAKENING_CALLS = 3
AWAKENING_SHARE = 0.1  # of a round, before it: clocks and caches come back
DEVICE_SHARE = 0.25  # of a round, once more, to ask the device's own clock
# A process is at rest when it uses less than a tenth of this on the processor.
REST_WINDOW_SECONDS = 0.01


def seconds_of(call: Callable[[], object]) -> float:
    """Return how long one call takes."""
    start = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - start) * 1e-9


def warm_up(
    infer: Infer,
    batches: Sequence[Batch],
    *,
    window_seconds: float,
    limit_seconds: float,
    count: int = 3,
) -> tuple[bool, float]:
    """Run until the medians of three windows in a row agree, each of at least `count` calls.

    Returns:
        Whether they came to, and the last median in seconds.
    """
    medians: list[float] = []
    deadline = time.perf_counter() + limit_seconds
    while True:
        samples, _ = timed(infer, batches, seconds=window_seconds, count=count)
        medians.append(_median(samples) * 1e-9)
        last = medians[-STEADY_WINDOWS:]
        if len(last) == STEADY_WINDOWS and max(last) <= STEADY_RATIO * min(last):
            return True, medians[-1]
        if time.perf_counter() > deadline:
            return False, medians[-1]


def _median(samples: NDArray[np.int64]) -> int:
    """Return the median of at most a thousand, taken evenly.

    `numpy.median` would add 0.5 MB of code to the peak memory of the process, for a number that
    needs to be known to some percent.
    """
    few: list[int] = samples[:: len(samples) // MEDIAN_COUNT + 1].tolist()
    return sorted(few)[len(few) // 2]


def round_of(
    infer: Infer, batches: Sequence[Batch], *, seconds: float, count: int
) -> tuple[NDArray[np.int64], float]:
    """Wake up, then time batches for at least `seconds` and at least `count` of them."""
    timed(infer, batches, seconds=seconds * AWAKENING_SHARE, count=AWAKENING_CALLS)
    return timed(infer, batches, seconds=seconds, count=count)


def timed(
    infer: Infer, batches: Sequence[Batch], *, seconds: float, count: int
) -> tuple[NDArray[np.int64], float]:
    """Return the nanoseconds of each batch, and the seconds from the first to the last."""
    clock = time.perf_counter_ns
    samples = array("q")  # eight bytes a sample: they count in the peak memory
    keep = samples.append
    with no_collections():
        begin = end = clock()
        deadline = begin + int(seconds * 1e9)
        # Two clock reads a batch and nothing else: about 0.1 us that counts as the model's.
        for batch in itertools.cycle(batches):
            start = clock()
            infer(batch)
            end = clock()
            keep(end - start)
            if end >= deadline and len(samples) >= count:
                break
    return np.frombuffer(samples, np.int64), (end - begin) * 1e-9


def device_round_of(
    infer: Infer,
    device_seconds: Callable[[], float],
    batches: Sequence[Batch],
    *,
    seconds: float,
    count: int,
) -> NDArray[np.int64]:
    """Return the nanoseconds of batches by the device's clock, for at least `seconds` by ours.

    Asking the device takes time of its own, so these are never batches that are timed end to end.
    """
    samples = array("q")

    def infer_and_ask(batch: Batch) -> None:
        infer(batch)
        samples.append(round(device_seconds() * 1e9))

    timed(infer_and_ask, batches, seconds=seconds * DEVICE_SHARE, count=count)
    return np.frombuffer(samples, np.int64)


def rest(*, limit_seconds: float = 1.0) -> bool:
    """Wait until this process no longer uses the processor; return whether it came to that.

    Threads of a runtime spin for a while after the last batch (ONNX Runtime's for about 45 ms)
    and would take time from whoever is measured next.
    """
    deadline = time.perf_counter() + limit_seconds
    while time.perf_counter() < deadline:
        used = time.process_time()
        time.sleep(REST_WINDOW_SECONDS)
        if time.process_time() - used < REST_WINDOW_SECONDS / 10:
            return True
    return False


@contextmanager
def no_collections() -> Iterator[None]:
    """Keep Python's garbage collector out of the times."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
