"""What all processes did on this device meanwhile, from /proc: the twin of `surroundings.look`.

That one asks psutil, which a device need not have. Source: proc(5).
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from kdeploy.machine import throttled_count

IDLE, IOWAIT = 3, 4
OWN_COLUMNS = 8  # user nice system idle iowait irq softirq steal; guests are in user already
USER, SYSTEM = 11, 12  # of /proc/<pid>/stat, counted behind the name in brackets


def look(pids: Sequence[int], *, proc: Path = Path("/proc")) -> dict[str, float]:
    """Return the counters now, in the fields of `surroundings.Counters`."""
    return {
        "at_seconds": time.monotonic(),
        "busy_seconds": _busy_ticks(proc) / os.sysconf("SC_CLK_TCK"),
        "own_seconds": sum(_ticks_of(proc / str(pid)) for pid in (*pids, os.getpid()))
        / os.sysconf("SC_CLK_TCK"),
        "throttled": throttled_count(),
    }


def _busy_ticks(proc: Path) -> int:
    """Return all work of the cores that this process may use."""
    allowed = {f"cpu{core}" for core in os.sched_getaffinity(0)}
    rows = (line.split() for line in (proc / "stat").read_text().splitlines())
    columns = [[int(n) for n in row[1 : 1 + OWN_COLUMNS]] for row in rows if row[0] in allowed]
    return sum(sum(row) - row[IDLE] - row[IOWAIT] for row in columns)


def _ticks_of(process: Path) -> int:
    try:
        fields = (process / "stat").read_text().rpartition(")")[2].split()
    except OSError:  # it has failed and is gone
        return 0
    return int(fields[USER]) + int(fields[SYSTEM])
