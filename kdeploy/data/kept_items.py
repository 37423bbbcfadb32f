"""Items that are decoded once: from the second time on they are read from a file as they were."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdeploy.data.cache import no_room
from kdeploy.system.user_cache import cache_folder

SHARE_OF_FREE = 0.1
"""Of what is free on the disk, that is taken unasked."""
Read = Callable[[int], NDArray[Any]]


def has_room(size_bytes: int) -> bool:
    """Return whether so much may be kept without being asked for: the disk hardly notices it."""
    folder = cache_folder("kept")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
    except OSError:
        return False
    return os.access(folder, os.W_OK) and size_bytes <= SHARE_OF_FREE * free


def kept_after_reading(
    read: Read, *, count: int, item_shape: tuple[int, ...], dtype: np.dtype[Any]
) -> Read:
    """Return a `read` that asks the given one once for each item, also from several threads.

    The file has no name and goes with the process, so that it is never older than what it is of.
    It takes no memory but one byte an item.

    Args:
        read: Returns an item by its place, the same each time.
        count: How many there are.
        item_shape: Of each item.
        dtype: Of each item.
    """
    folder = cache_folder("kept")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        kept = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - as long as `read_once`
    except OSError as error:
        raise no_room(folder, error) from None
    file = kept.fileno()
    item_bytes = int(np.prod(item_shape)) * dtype.itemsize
    is_kept = np.zeros(count, bool)

    def read_once(place: int) -> NDArray[Any]:
        if is_kept[place]:
            content = os.pread(file, item_bytes, place * item_bytes)
            return np.frombuffer(content, dtype).reshape(item_shape)
        item = np.ascontiguousarray(read(place), dtype)
        try:
            written = os.pwrite(file, item.tobytes(), place * item_bytes)
        except OSError as error:
            raise no_room(folder, error) from None
        # Marked only now: another thread never reads half of an item.
        is_kept[place] = written == item_bytes
        return item

    weakref.finalize(read_once, kept.close)
    return read_once
