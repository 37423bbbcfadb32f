"""Ctrl-C and SIGTERM of the command line: neither lost nor half-done.

Python raises in whatever runs when the signal comes. In a weak reference's callback or a finaliser,
of which torch's tracing is full, that exception is printed and dropped, and other code catches all
that is raised. So the signal is kept: an exception that was dropped is raised again a moment later,
and `stop_if_asked` raises it at the next step of whatever goes on. A second signal ends the process
at once, also inside of native code: files are replaced in one step, so none is left half-written.

Only the command line installs this (`heeded`); as a library kdeploy leaves all signals alone.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
DEFAULTS = (signal.SIG_DFL, signal.default_int_handler)
AGAIN_SECONDS = 0.05  # a signal that was swallowed on its way up is raised again
BASE_CODE = 128
"""A shell's exit code of a process that a signal ended, less the signal's number."""

_asked: int | None = None
_is_heeding = False
_taken_along: list[Path] = []


class Stopped(KeyboardInterrupt):
    """The user, or the machine, asked this process to end."""


def stop_if_asked() -> None:
    """Raise where a signal has come whose exception did not arrive; call it in every loop.

    Raises:
        Stopped: a signal has come.
    """
    if _asked is not None:
        signal.setitimer(signal.ITIMER_REAL, 0)  # once is enough: cleaning up comes next
        raise Stopped


def asked_by() -> int | None:
    """Return the number of the signal that came, None where none did."""
    return _asked


@contextlib.contextmanager
def taken_along(*paths: Path) -> Iterator[None]:
    """Remove these files, too, where a second signal ends the process at once."""
    _taken_along.extend(paths)
    try:
        yield
    finally:
        for path in paths:
            _taken_along.remove(path)


@contextlib.contextmanager
def heeded() -> Iterator[None]:
    """Heed the signals inside; afterwards all handlers are as they were.

    Signals that the parent had ignored (`nohup`, a shell's background) stay ignored.
    """
    global _asked, _is_heeding
    if threading.current_thread() is not threading.main_thread():
        yield  # handlers are the main thread's alone
        return
    mine = [s for s in SIGNALS if signal.getsignal(s) in DEFAULTS]
    before: dict[int, Any] = {s: signal.signal(s, _ask) for s in mine}
    before[signal.SIGALRM] = signal.signal(signal.SIGALRM, _ask_again)
    hook, sys.unraisablehook = sys.unraisablehook, _raise_again(sys.unraisablehook)
    second = _SecondSignal(mine)
    _asked, _is_heeding = None, True
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        second.close()
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)
        _asked, _is_heeding = None, False


def leave(code: int) -> None:
    """End this process as the interpreter does, but for its taking libraries apart, unasked-for.

    That takes seconds with torch loaded, in which a further Ctrl-C would change the exit code.
    """
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


def _ask(number: int, frame: FrameType | None) -> None:
    global _asked
    del frame
    _asked = number
    raise Stopped


def _ask_again(number: int, frame: FrameType | None) -> None:
    del number, frame
    stop_if_asked()


def _raise_again(hook: Any) -> Any:
    def unraisable(dropped: Any) -> None:
        if dropped.exc_type is not None and issubclass(dropped.exc_type, Stopped):
            signal.setitimer(signal.ITIMER_REAL, AGAIN_SECONDS)
        else:
            hook(dropped)

    return unraisable


class _SecondSignal:
    """Ends the process at the second signal, which the kernel tells a thread through a pipe.

    Python's own handlers wait until native code returns; this does not.
    """

    def __init__(self, signals: Sequence[int]) -> None:
        self.signals = signals
        reading, self.writing = os.pipe()
        os.set_blocking(self.writing, False)
        self.before = signal.set_wakeup_fd(self.writing, warn_on_full_buffer=False)
        threading.Thread(target=self.listen, args=[reading], name="signals", daemon=True).start()

    def listen(self, reading: int) -> None:
        count = 0
        while told := os.read(reading, 64):
            ours = [number for number in told if number in self.signals]
            count += len(ours)
            if count > 1:
                for path in tuple(_taken_along):
                    with contextlib.suppress(OSError):
                        path.unlink()
                os.write(2, b"\nended at once\n")
                os._exit(BASE_CODE + ours[-1])
        os.close(reading)

    def close(self) -> None:
        signal.set_wakeup_fd(self.before)
        os.close(self.writing)  # the thread reads the end


def _in_forked_child() -> None:
    """Tell no parent of a child's signals."""
    if _is_heeding:
        signal.set_wakeup_fd(-1)


os.register_at_fork(after_in_child=_in_forked_child)
