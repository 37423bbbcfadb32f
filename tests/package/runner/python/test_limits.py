"""Processes that take too much memory or time, or die: one sentence each."""

from __future__ import annotations

import sys

import pytest

from kdeploy.package.runner.python import limits
from kdeploy.package.runner.python.limits import Ended, answer

BEGIN = f"""
import importlib.util, json, sys
spec = importlib.util.spec_from_file_location('limits', {limits.__file__!r})
limits = importlib.util.module_from_spec(spec)
spec.loader.exec_module(limits)
given = dict(zip(sys.argv[1::2], sys.argv[2::2]))
limits.limit(int(given['--memory-limit']), float(given['--timeout']), 1)
"""


def ran(tmp_path, text, *, seconds=60.0, megabytes=200):
    script = tmp_path / "script.py"
    script.write_text(BEGIN + text)
    return answer(str(script), [], {"--timeout": seconds, "--memory-limit": megabytes})


def test_an_answer_within_its_limits_comes_back(tmp_path):
    assert ran(tmp_path, "x = bytearray(100_000_000); print(json.dumps({'a': len(x)}))") == {
        "a": 100_000_000
    }


@pytest.mark.skipif(sys.platform != "linux", reason="addresses are bounded on Linux only")
def test_more_memory_than_allowed_is_an_error_of_the_process(tmp_path):
    text = "try: bytearray(300_000_000)\nexcept MemoryError as e: "
    text += "print(json.dumps({'reason': limits.reason(e, 200)}))"
    assert "more memory than 200 MB (--memory-limit)" in ran(tmp_path, text)["reason"]


def test_time_is_bounded_awake_and_asleep(tmp_path):
    with pytest.raises(Ended, match=r"stopped after 1 s, the limit \(--timeout\)"):
        ran(tmp_path, "import time; time.sleep(60)", seconds=1)
    with pytest.raises(Ended, match=r"limit \(--timeout\)"):
        ran(tmp_path, "while True: pass", seconds=1)


def test_a_death_is_told_with_its_code(tmp_path):
    with pytest.raises(Ended, match=r"died \(SIGSEGV\); it may take 200 MB"):
        ran(tmp_path, "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")


def test_what_a_process_says_of_its_input_is_passed_on(tmp_path):
    with pytest.raises(SystemExit) as caught:
        ran(tmp_path, "raise SystemExit(3)")
    assert caught.value.code == 3
