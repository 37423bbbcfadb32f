from __future__ import annotations

import os
import sys
import time

import psutil
import pytest

from kdeploy.bench import system_load as surroundings
from kdeploy.bench.ssh.device.processor import look

TICK_SECONDS = 1 / os.sysconf("SC_CLK_TCK")


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_counts_what_psutil_counts_for_the_measurements_here():
    before = surroundings.look([os.getppid()])
    there = look([os.getppid()])
    after = surroundings.look([os.getppid()])
    cores = len(os.sched_getaffinity(0))
    for name in ("at_seconds", "busy_seconds", "own_seconds"):
        lowest, highest = getattr(before, name), getattr(after, name)
        assert lowest - cores * TICK_SECONDS <= there[name] <= highest + cores * TICK_SECONDS, name
    assert surroundings.Counters(**there).throttled >= 0


def test_a_process_that_is_gone_counts_nothing():
    gone = max(psutil.pids()) + 10_000
    assert look([gone])["own_seconds"] <= time.process_time() + 1
