from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

from kdeploy.tensorrt.progress import cancellable

# In a process of its own: a signal that goes astray must not end the tests. SIGINT is set to what
# it is in a terminal, since a shell that starts the tests in the background has it ignored.
INTERRUPTED = textwrap.dedent(
    """
    import signal, threading

    from kdeploy.tensorrt.progress import cancellable

    signal.signal(signal.SIGINT, signal.default_int_handler)

    def work(cancelled):
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        print("told:", cancelled.wait(timeout=30))
        print("ended by itself")

    try:
        cancellable(work)
    except KeyboardInterrupt:
        print("interrupted")
    """
)


def test_returns_what_the_work_returns_with_its_errors():
    assert cancellable(lambda cancelled: cancelled.is_set()) is False
    with pytest.raises(ZeroDivisionError):
        cancellable(lambda _: 1 / 0)


def test_ctrl_c_tells_the_work_and_waits_for_it():
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.splitlines() == ["told: True", "ended by itself", "interrupted"], done.stderr
    assert done.returncode == 0
