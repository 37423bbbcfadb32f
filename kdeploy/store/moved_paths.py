"""Paths that outlive a move: kept absolute, and from the folder that names them.

What was made in one place is used in another: a run folder is copied, its parent renamed, the
working directory changed. An absolute path holds while the file stays where it was, a relative one
while it goes along.
"""

from __future__ import annotations

import os
from pathlib import Path


def from_here(path: Path, here: Path) -> str:
    """Return a path as seen from a folder."""
    return os.path.relpath(path.resolve(), here.resolve())


def lies_now(absolute: str | Path, relative: str | None, here: Path) -> Path:
    """Return where a path is: at its absolute place, or where it lies seen from `here`.

    Where it is in neither, that is its absolute place.
    """
    path = Path(absolute)
    if path.exists() or not relative:
        return path
    moved = (here.resolve() / relative).resolve()
    return moved if moved.exists() else path


def went_along(path: Path, *, was: Path, now: Path) -> Path:
    """Return where a path is if it went along when the folder `was` became `now`."""
    return (now / os.path.relpath(path, was)).resolve()
