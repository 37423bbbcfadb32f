from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from kdeploy.bench import memory


def test_the_peak_remembers_what_was_freed():
    code = """
from kdeploy.bench import memory

before = memory.peak_bytes()
block = bytearray(b"x") * (before + 2**24)
del block
print(memory.peak_bytes() - before)
"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert int(answer.stdout) >= 2**24, answer.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="VmHWM is Linux's")
def test_a_child_starts_with_its_own_peak():
    block = np.ones(300 * 2**20, np.uint8)
    code = "from kdeploy.bench.memory import peak_bytes; print(peak_bytes())"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert int(answer.stdout) < 100 * 2**20 < len(block), answer.stderr


def test_what_is_swapped_is_counted_in_bytes(tmp_path, monkeypatch):
    status = tmp_path / "status"
    status.write_text("VmHWM:\t  10 kB\nVmSwap:\t   3 kB\n")
    assert memory._field("VmSwap", status) == 3 * 1024
    assert memory._field("VmLck", status) is None
