"""Freed memory stays while it is asked for, and goes back in the end."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from kdeploy.system import heap

pytestmark = pytest.mark.skipif(heap._glibc() is None, reason="another C library than glibc")
PROGRAM = """
import contextlib, json, resource
import numpy as np
from kdeploy.system.heap import freed_memory_kept

def faults(count=20):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(count):
        np.ones(2**23).sum()  # 64 MiB, beyond what glibc ever keeps by itself
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

plain = faults()
with freed_memory_kept():
    with freed_memory_kept():
        faults(1)
    kept, held = faults(), resident()
print(json.dumps([plain, kept, held - resident(), faults()]))
"""


def said(**environment):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **environment},
    )
    return json.loads(done.stdout)


def test_pages_are_asked_for_once_and_go_back():
    plain, kept, returned, after = said()
    assert kept < plain / 10
    assert returned >= 2**26
    assert after > plain / 2


@pytest.mark.parametrize(
    "variables",
    [{"MALLOC_TRIM_THRESHOLD_": "131072"}, {"GLIBC_TUNABLES": "glibc.malloc.mmap_max=65536"}],
)
def test_who_has_set_it_up_is_not_overruled(variables):
    plain, kept, *_ = said(**variables)
    assert kept > plain / 2
