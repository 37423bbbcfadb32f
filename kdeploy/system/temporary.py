"""Folders for a while: locked while their process lives, and swept away by the next one if it died.

The lock is the kernel's, which frees it however a process ends: no living process loses a folder,
and none of another user is touched.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

PREFIX = "kdeploy-tmp-"


@contextlib.contextmanager
def temporary_folder(what: str, *, place: Path | None = None) -> Iterator[Path]:
    """Yield a new folder, removed at the end.

    Args:
        what: What it is for: a part of its name.
        place: Where it lies; left out, where the system has such.
    """
    sweep_once()
    with locked_folder(f"{PREFIX}{what}-", place or Path(tempfile.gettempdir())) as folder:
        yield folder


@contextlib.contextmanager
def locked_folder(prefix: str, beside: Path) -> Iterator[Path]:
    """Yield a new folder in `beside`, locked while this process lives, removed at the end."""
    folder, lock = _made(prefix, beside)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


@cache
def sweep_once() -> None:
    """Remove, once in a process, what killed ones left in the system's place for such."""
    sweep(PREFIX, Path(tempfile.gettempdir()))


def sweep(prefix: str, beside: Path) -> None:
    """Remove the folders of killed processes: the kernel has freed their locks."""
    for folder in [path for path in beside.iterdir() if path.name.startswith(prefix)]:
        with contextlib.suppress(OSError):  # its owner has just removed it
            _remove_unlocked(folder)


def _remove_unlocked(folder: Path) -> None:
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if os.fstat(lock).st_uid == os.getuid():
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # a BlockingIOError: it is in use
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)


def _made(prefix: str, beside: Path) -> tuple[Path, int]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=beside))
        # Between its making and its lock another process may sweep it away: then another is made.
        with contextlib.suppress(FileNotFoundError):
            lock = os.open(folder, os.O_RDONLY)
            fcntl.flock(lock, fcntl.LOCK_EX)
            if folder.exists():
                return folder, lock
            os.close(lock)
