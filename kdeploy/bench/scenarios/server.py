"""Scenario `server`: requests come at random times; the highest rate with the p99 in a limit.

Arrivals are a Poisson process, drawn beforehand from a seed. A request waits until all before it
are answered and its latency counts from its scheduled arrival, so a slow answer is felt by those
behind it: nothing is left out because the server was busy ("coordinated omission"; G. Tene, How NOT
to Measure Latency, 2013). While searching, a rate passes when 1 % of the requests are late; the
last run must leave no doubt, as MLPerf Inference's early stopping defines it (see
`kdeploy.bench.early_stopping`). Late requests come in spells, though, the longer the busier the
server is; so runs are the longer, too.
"""

from __future__ import annotations

import itertools
import math
import time
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdeploy.bench.measure import no_collections

LIMITS = 20  # a run lasts so many times the limit at least, or no queue could build up
LONGEST_SECONDS = 60.0  # that a run is made longer for its spells
BUSIEST = 0.95  # utilisation; beyond it no run that is short enough tells anything
PRECISION = 1.04  # the lowest rate that failed / the highest that passed
LOWEST = 1 / 16  # of what it can do back to back; who hardly ever waits waits no less below
STEP_BACK, CONFIRMATIONS = 0.97, 20  # when the last run does not confirm what the search found
# Waking up takes the kernel some 50 us, which a short model must not be charged with.
SPINNING_NANOSECONDS = 200_000
_LEAD_NANOSECONDS = 1_000_000  # until the first request: the loop is running by then


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerRun:
    """How much a run must hold to be believed."""

    requests: int
    spells: int
    """A queue forgets how it was after about 1 / (1 - utilisation)^2 requests (Whitt, Planning
    Queueing Simulations, Management Science 35, 1989)."""


SEARCHING = ServerRun(requests=600, spells=20)
CONFIRMING = ServerRun(requests=1500, spells=300)


def arrivals(rate: float, count: int, *, seed: int) -> NDArray[np.int64]:
    """Return the nanoseconds of so many arrivals at a mean `rate` a second, counted from 0."""
    gaps = np.random.default_rng(seed).exponential(1 / rate, count)
    return np.rint(np.cumsum(gaps) * 1e9).astype(np.int64)


def serve(
    infer: Callable[[Any], Any],
    batches: Sequence[Any],
    schedule: NDArray[np.int64],
    *,
    limit_seconds: float,
    late_allowed: int,
) -> NDArray[np.int64]:
    """Return the nanoseconds from each scheduled arrival to its answer.

    One thread takes the requests in the order of their arrival. That is a queue with one worker:
    who is busy when a request comes finds it afterwards, due in the past. The run is over when
    more than `late_allowed` were late: nothing that comes later can change the verdict.
    """
    clock, limit, late = time.perf_counter_ns, int(limit_seconds * 1e9), 0
    latencies = array("q")
    with no_collections():
        start = clock() + _LEAD_NANOSECONDS
        for offset, batch in zip(schedule.tolist(), itertools.cycle(batches), strict=False):
            due = start + offset
            _wait_until(due)
            infer(batch)
            latency = clock() - due
            latencies.append(latency)
            late += latency > limit
            if late > late_allowed:
                break
    return np.array(latencies, np.int64)


def highest_rate(
    is_met: Callable[[float], bool],
    is_confirmed: Callable[[float], bool],
    *,
    capacity: float,
) -> float | None:
    """Return the highest rate that holds the limit and was confirmed; None when none does.

    Args:
        is_met: Whether the limit holds at a rate; asked by bisection.
        is_confirmed: The same from a longer run with other arrivals: the best of many runs was
            also the luckiest one.
        capacity: Requests a second that it answers back to back.
    """
    # An M/D/1 queue at half its capacity waits half a service time: nearly all limits hold there.
    low, high = capacity / 2, capacity * BUSIEST
    while not is_met(low):
        low, high = low / 2, low
        if low < capacity * LOWEST:
            return None
    while high > PRECISION * low:
        # Halfway in ratio: the precision that is asked for is a ratio, too.
        middle = math.sqrt(low * high)
        low, high = (middle, high) if is_met(middle) else (low, middle)
    candidates: Iterable[float] = (low * STEP_BACK**n for n in range(CONFIRMATIONS))
    return next((rate for rate in candidates if is_confirmed(rate)), None)


def num_requests(
    rate: float,
    run: ServerRun,
    *,
    capacity: float,
    seconds: float,
    limit_seconds: float,
) -> int:
    """Return how many requests a run needs to last long enough and to tell its p99.

    Args:
        rate: Of arrivals, a second.
        run: What it must hold; its spells only where that is not too long.
        capacity: Of answers a second, back to back.
        seconds: How long it lasts at least.
        limit_seconds: Of the p99.
    """
    in_spells = min(run.spells / (1 - rate / capacity) ** 2, rate * LONGEST_SECONDS)
    return math.ceil(max(run.requests, in_spells, rate * max(seconds, LIMITS * limit_seconds)))


def _wait_until(due: int) -> None:
    clock = time.perf_counter_ns
    early = due - SPINNING_NANOSECONDS - clock()
    if early > 0:
        time.sleep(early * 1e-9)
    while clock() < due:
        pass
