"""A signal is neither lost nor half-done: raised again where it was dropped, then at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from kdeploy.system.interruption import Stopped, asked_by, heeded, stop_if_asked

# In processes of their own: a signal that goes astray must not end the tests.
DROPPED = """
import signal, time, weakref
from kdeploy.system.interruption import Stopped, heeded

class Thing: pass

signal.signal(signal.SIGINT, signal.default_int_handler)
with heeded():
    thing = Thing()
    seen = weakref.ref(thing, lambda _: signal.raise_signal(signal.SIGINT))
    try:
        del thing  # the exception is raised in the callback, where Python drops it
        print("dropped", flush=True)
        while True:
            sum(range(1000))
    except Stopped:
        print("arrived")
"""
SWALLOWED = """
import signal
from kdeploy.system.interruption import Stopped, heeded, stop_if_asked

signal.signal(signal.SIGINT, signal.default_int_handler)
with heeded():
    try:
        signal.raise_signal(signal.SIGINT)
    except BaseException:
        pass
    try:
        stop_if_asked()
    except Stopped:
        print("arrived")
"""
NATIVE = """
import ctypes, signal, sys
from pathlib import Path
from kdeploy.system.interruption import heeded, taken_along

signal.signal(signal.SIGINT, signal.default_int_handler)
Path(sys.argv[1]).touch()
with heeded(), taken_along(Path(sys.argv[1])):
    mutex, libc = ctypes.create_string_buffer(256), ctypes.CDLL(None)
    libc.pthread_mutex_lock(mutex)
    print("ready", flush=True)
    libc.pthread_mutex_lock(mutex)  # waits in native code for ever, whatever signals come
"""


def run(code):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )


def test_what_a_callback_drops_is_raised_again():
    done = run(DROPPED)
    assert done.stdout.split() == ["dropped", "arrived"]
    assert done.stderr == ""


def test_what_other_code_swallows_is_raised_at_the_next_step():
    assert run(SWALLOWED).stdout.split() == ["arrived"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_native_code_at_once(tmp_path, number):
    command = [sys.executable, "-c", NATIVE, str(tmp_path / "mark")]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as child:
        assert child.stdout.readline() == "ready\n"
        time.sleep(0.5)  # the one line that is left until it waits
        child.send_signal(number)
        time.sleep(0.5)
        assert child.poll() is None
        assert (tmp_path / "mark").exists()
        child.send_signal(number)
        _, errors = child.communicate(timeout=10)
    assert child.returncode == 128 + number
    assert errors == "\nended at once\n"
    assert not (tmp_path / "mark").exists()


def test_handlers_are_as_they_were_afterwards():
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)
    before = [signal.getsignal(n) for n in numbers], sys.unraisablehook
    with heeded():
        assert signal.getsignal(signal.SIGTERM) not in before[0]
    assert ([signal.getsignal(n) for n in numbers], sys.unraisablehook) == before
    assert asked_by() is None
    stop_if_asked()


def test_what_the_parent_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with heeded():
            os.kill(os.getpid(), signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
            assert asked_by() is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_sigterm_is_told_by_its_number():
    with heeded():
        with pytest.raises(Stopped):
            os.kill(os.getpid(), signal.SIGTERM)
        assert asked_by() == signal.SIGTERM
        with pytest.raises(Stopped):
            stop_if_asked()
