from __future__ import annotations

import subprocess
import sys
import time

import pytest

from kdeploy.bench.system_load import Counters, doubts_between, look


def _counters(at, busy, own, throttled=0):
    return Counters(at_seconds=at, busy_seconds=busy, own_seconds=own, throttled=throttled)


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        (_counters(10, 10.2, 10.0), ()),
        (_counters(10, 13.0, 10.0), ("other_load",)),
        (_counters(10, 10.2, 10.0, throttled=1), ("throttled",)),
        (_counters(10, 15.0, 10.0, throttled=4), ("other_load", "throttled")),
    ],
)
def test_work_of_others_and_throttling_are_told(after, expected):
    assert doubts_between(_counters(0, 0, 0), after) == expected


def test_counts_the_work_of_this_process_as_its_own():
    before = look([])
    start = time.process_time()
    while time.process_time() - start < 0.1:
        pass
    after = look([])
    assert after.own_seconds - before.own_seconds >= 0.08
    assert after.at_seconds > before.at_seconds


def test_a_process_that_is_gone_counts_nothing():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert look([process.pid]).own_seconds > 0
