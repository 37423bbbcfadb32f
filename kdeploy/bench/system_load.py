"""What else happened on the machine while it was measured.

The load average tells of minutes that are over, so the processor's own counters are compared:
all that it did, less what the measured processes and this one did.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import psutil  # type: ignore[import-untyped]

from kdeploy.machine import fingerprint, throttled_count

OTHER_CORES = 0.15  # cores' worth of others' work; an idle Linux uses a few hundredths


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """Seconds of processor time so far: of all, and of those that measure."""

    at_seconds: float
    busy_seconds: float
    own_seconds: float
    throttled: int


def look(pids: Sequence[int]) -> Counters:
    """Return the counters now; `pids` are the processes that are measured."""
    return Counters(
        at_seconds=time.monotonic(),
        busy_seconds=_busy_seconds(),
        own_seconds=sum(_process_seconds(pid) for pid in (*pids, os.getpid())),
        throttled=throttled_count(),
    )


def doubts_between(before: Counters, after: Counters) -> tuple[str, ...]:
    """Return the flags for what happened between two looks."""
    elapsed = after.at_seconds - before.at_seconds
    own = after.own_seconds - before.own_seconds
    others = after.busy_seconds - before.busy_seconds - own
    found = ("other_load",) if others > OTHER_CORES * elapsed else ()
    return (*found, "throttled") if after.throttled > before.throttled else found


def free_bytes() -> int:
    """Return the memory that is free for more programs here, within the cgroup's limit."""
    free = int(psutil.virtual_memory().available)
    return min(free, fingerprint().ram_bytes or free)


def _busy_seconds() -> float:
    """Return all work of the cores that this process may use, also what a host took away."""
    cores = psutil.cpu_times(percpu=True)
    allowed = os.sched_getaffinity(0) if sys.platform == "linux" else range(len(cores))
    # Time in guests is counted in user time already.
    idle = ("idle", "iowait", "guest", "guest_nice")
    busy = (
        seconds
        for i in allowed
        if i < len(cores)
        for kind, seconds in cores[i]._asdict().items()
        if kind not in idle
    )
    return float(sum(busy))


def _process_seconds(pid: int) -> float:
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.Error:  # it has failed and is gone
        return 0.0
    return float(times.user + times.system)
