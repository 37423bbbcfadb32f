"""Items that are decoded once: from the second time on they are read from a file as they were."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdeploy.data.cache import no_room
from kdeploy.system.user_cache import cache_folder

SHARE_OF_FREE = 0.1
"""Of what is free on the disk, that is taken unasked."""


def has_room(size_bytes: int) -> bool:
    """Return whether so much may be kept without being asked for: the disk hardly notices it."""
    folder = cache_folder("kept")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
    except OSError:
        return False
    return os.access(folder, os.W_OK) and size_bytes <= SHARE_OF_FREE * free


class KeptItems:
    """Items in a file, each as it was when it was first read.

    The file has no name and goes with the process, so that it is never older than what it is of.
    It takes no memory but one byte an item. Several threads may keep items at once.

    Args:
        count: How many there are.
        item_shape: Of each item.
        dtype: Of each item.
    """

    def __init__(self, count: int, item_shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._folder = cache_folder("kept")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            kept = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - as long as this object
        except OSError as error:
            raise no_room(self._folder, error) from None
        weakref.finalize(self, kept.close)
        self._file = kept.fileno()
        self._item_bytes = int(np.prod(item_shape)) * dtype.itemsize
        self._dtype = dtype
        self._is_kept = np.zeros(count, bool)

    def fill(self, places: NDArray[np.int64], made: NDArray[Any]) -> list[int]:
        """Write the items of these places into rows of `made`; return the rows that it has not.

        In one thread: handing over reads of a few kilobytes costs more than they take.
        """
        is_kept = self._is_kept[places]
        for row in np.flatnonzero(is_kept).tolist():
            self._read_into(made[row, ...], int(places[row]) * self._item_bytes)
        rest: list[int] = np.flatnonzero(~is_kept).tolist()
        return rest

    def _read_into(self, item: NDArray[Any], offset: int) -> None:
        if hasattr(os, "preadv"):
            # Straight to where it is wanted: a copy of a small item takes as long as reading it.
            os.preadv(self._file, [item.data], offset)
        else:  # some systems have the one and not the other
            content = os.pread(self._file, self._item_bytes, offset)
            item[...] = np.frombuffer(content, self._dtype).reshape(item.shape)

    def keep(self, place: int, item: NDArray[Any]) -> None:
        """Keep an item, from now on."""
        content = np.ascontiguousarray(item, self._dtype).tobytes()
        try:
            written = os.pwrite(self._file, content, place * self._item_bytes)
        except OSError as error:
            raise no_room(self._folder, error) from None
        # Marked only now: another thread never reads half of an item.
        self._is_kept[place] = written == self._item_bytes
