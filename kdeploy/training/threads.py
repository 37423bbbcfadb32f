"""How many threads compute: as many as there are free processors, not as many as are built in.

Threads of one computation wait for one another: two of them on one processor are slower than one.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from kdeploy.machine import allowed_cores

LOOK_SECONDS = 0.3  # 30 ticks of /proc/stat
REMEMBERED_SECONDS = 30.0
VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
STAT = Path("/proc/stat")
logger = logging.getLogger(__name__)
_looked: list[tuple[float, float]] = []
_chosen: list[int] = []
_told: list[int] = []


def free_threads() -> int:
    """Return how many threads are to compute here now: never more than torch has.

    A number in `OMP_NUM_THREADS` holds. Else it is the processors that others leave idle, one at
    least.
    """
    most = torch.get_num_threads()
    if _chosen or most == 1 or any(os.environ.get(name) for name in VARIABLES):
        return most
    allowed = min(most, allowed_cores())
    if allowed == 1:
        return 1
    busy = _busy_by_others()
    # Of a machine with many processors others may have what a quota does not give us.
    free = min(float(allowed), _processors() - busy)
    # 0.1: a processor that is a little busy is still taken, one that is half busy is not.
    chosen = max(1, round(free - 0.1))
    if chosen < most and chosen not in _told:
        _told.append(chosen)  # a run of many steps says it once
        logger.warning(
            "computes with %d of %d threads: others use %.1f processors, %d may be used here; "
            "OMP_NUM_THREADS decides otherwise",
            chosen,
            most,
            busy,
            allowed,
        )
    return chosen


@contextmanager
def computing_with(threads: int) -> Iterator[None]:
    """Let torch compute with so many threads inside the `with`; nobody chooses again there."""
    before = torch.get_num_threads()
    _chosen.append(threads)
    _set(threads)
    try:
        yield
    finally:
        _chosen.pop()
        _set(before)


def _set(threads: int) -> None:
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)


def _busy_by_others() -> float:
    """Return how many processors others use, by a short look that is remembered for a while."""
    now = time.monotonic()
    if _looked and now - _looked[0][0] < REMEMBERED_SECONDS:
        return _looked[0][1]
    first, own = _busy_seconds(), time.process_time()
    time.sleep(LOOK_SECONDS)
    spent = time.monotonic() - now
    others = _busy_seconds() - first - (time.process_time() - own)
    busy = max(0.0, others / spent)
    _looked[:] = [(time.monotonic(), busy)]
    return busy


def _busy_seconds() -> float:
    """Return the seconds that all processors have worked since the start; 0 where nobody counts."""
    try:
        # proc(5): user nice system idle iowait irq softirq steal, in ticks.
        fields = STAT.read_text().split("\n", 1)[0].split()[1:9]
        user, nice, system, _idle, _waiting, interrupts, soft, stolen = map(int, fields)
    except (OSError, ValueError):
        return 0.0
    ticks = user + nice + system + interrupts + soft + stolen
    return ticks / os.sysconf("SC_CLK_TCK")


def _processors() -> int:
    return os.cpu_count() or 1
