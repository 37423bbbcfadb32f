import json
import os
import signal
import subprocess
import sys

import pytest

from kdeploy.pipeline import unfinished as module
from kdeploy.pipeline.unfinished import told_of_the_dead, unfinished

DYING = """
import ctypes, os, signal, sys
from pathlib import Path
from kdeploy.pipeline.unfinished import unfinished
with unfinished(Path(sys.argv[1]), "distill offline student"):
    if sys.argv[2] == "SIGKILL":
        os.kill(os.getpid(), signal.SIGKILL)
    if sys.argv[2] == "SIGSEGV":
        ctypes.string_at(0)
    if sys.argv[2] == "SIGABRT":
        os.abort()
    raise {"error": ValueError, "interrupt": KeyboardInterrupt}.get(sys.argv[2], SystemExit)
"""


def end_of(out, how):
    command = [sys.executable, "-c", DYING, str(out), how]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONFAULTHANDLER"}
    return subprocess.run(
        command, capture_output=True, env=environment, timeout=60, check=False
    ).returncode


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("SIGSEGV", "died while `distill offline student` was made, with 1 threads: Segmentation"),
        ("SIGABRT", "died while `distill offline student` was made, with 1 threads: Aborted"),
        ("SIGKILL", "was killed, or died without a word, while `distill offline student` was made"),
    ],
)
def test_a_native_death_is_told_once_with_the_step_and_what_to_change(tmp_path, how, said):
    assert end_of(tmp_path, how) == -getattr(signal, how)
    (line,) = told_of_the_dead(tmp_path)
    assert said in line
    assert "OMP_NUM_THREADS=1" in line
    assert "`channels_last: false`" in line
    assert told_of_the_dead(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("how", ["error", "interrupt", "end"])
def test_who_says_why_it_ends_leaves_nothing(tmp_path, how):
    end_of(tmp_path, how)
    assert told_of_the_dead(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_who_is_at_work_is_not_dead(tmp_path):
    with unfinished(tmp_path, "compress int8_qat"):
        assert told_of_the_dead(tmp_path) == []
        with unfinished(tmp_path, "inner"):
            pass
        (file,) = tmp_path.glob(f"{module.PREFIX}*.json")
        assert json.loads(file.read_text())["step"] == "compress int8_qat"
    assert list(tmp_path.iterdir()) == []


def left_behind(tmp_path, **changed):
    with unfinished(tmp_path, "s"):
        (file,) = tmp_path.glob(f"{module.PREFIX}*.json")
        left = json.loads(file.read_text()) | {"pid": 2**22 + 1, **changed}
    file.write_text(json.dumps(left))
    return file


def test_it_says_what_is_known_of_why(tmp_path):
    left_behind(tmp_path, boot="another")
    assert "when the machine went down" in told_of_the_dead(tmp_path)[0]
    left_behind(tmp_path, out_of_memory=-1)
    assert "for want of memory" in told_of_the_dead(tmp_path)[0]


def test_a_number_that_another_process_has_by_now_is_not_that_process(tmp_path):
    left_behind(tmp_path, pid=os.getpid(), started=1.0)
    assert len(told_of_the_dead(tmp_path)) == 1


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"host": 3}'])
def test_what_was_cut_off_is_passed_over(tmp_path, content):
    file = left_behind(tmp_path)
    file.write_text(content)
    assert told_of_the_dead(tmp_path) == []


def test_on_another_machine_nobody_knows_who_is_alive(tmp_path):
    left_behind(tmp_path, host="elsewhere")
    assert told_of_the_dead(tmp_path) == []
