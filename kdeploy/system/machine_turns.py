"""Who may use this machine: any number of trainings, or one timing alone.

Beside a training on another core the p99 of a file is nearly five times as large. The locks hold
for all processes of a user on this machine, and the kernel frees them when a process ends, however
that ends. They lie in the temporary folder, or where `KDEPLOY_LOCKS` says: containers that share a
machine share its folder.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

FOLDER = "KDEPLOY_LOCKS"
WAITS = "waits: another kdeploy measures on this machine"


@contextmanager
def training() -> Iterator[None]:
    """Compute beside other trainings of searches, never beside a timing of one."""
    with _held("turns", fcntl.LOCK_SH):
        yield


@contextmanager
def timing() -> Iterator[None]:
    """Have the machine alone among searches."""
    with _held("turns", fcntl.LOCK_EX):
        yield


@contextmanager
def measuring(watch: Callable[[str], None]) -> Iterator[None]:
    """Be the only one that measures: no two timings of any command at once.

    Args:
        watch: Called with a line for people where another one has to end first.
    """
    with _held("measuring", fcntl.LOCK_EX, waits=lambda: watch(WAITS)):
        yield


@contextmanager
def _held(name: str, how: int, waits: Callable[[], None] = lambda: None) -> Iterator[None]:
    folder = Path(os.environ.get(FOLDER) or tempfile.gettempdir())
    path = folder / f"kdeploy-{name}-{os.getuid()}.lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, how | fcntl.LOCK_NB)
        except BlockingIOError:
            waits()
            fcntl.flock(descriptor, how)
        yield
    finally:
        os.close(descriptor)
