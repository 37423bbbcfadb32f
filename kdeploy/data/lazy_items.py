"""Items that are read when they are asked for: more than memory, or a disk, would hold."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdeploy.data.kept_items import KeptItems
from kdeploy.machine import allowed_cores
from kdeploy.named_arrays import by_name

FEW = 4
"""Fewer items are read one by one: handing them to threads costs more."""
SAMPLED = 2000
"""So many items, spread evenly, tell mean and deviation."""


@dataclass(frozen=True, slots=True, eq=False)
class LazyItems:
    """Stands in for an array (count, *item_shape) wherever one indexes; see `rows.Rows`.

    Every item is read anew each time, unless they are `kept`. `np.asarray(x)` reads all.
    """

    read: Callable[[int], NDArray[Any]]
    """Returns an item by its place; may be called from several threads."""
    count: int
    item_shape: tuple[int, ...]
    dtype: np.dtype[Any]
    is_threaded: bool = True
    is_repeatable: bool = True
    """Whether an item is the same each time."""
    kept: KeptItems | None = None
    """Where items are, from the second time on."""

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, key: Any) -> NDArray[Any]:
        rows, *rest = key if isinstance(key, tuple) else (key,)
        if isinstance(rows, int | np.integer):
            place = range(self.count)[int(rows)]
            item: NDArray[Any] = self[(slice(place, place + 1), *rest)][0]
            return item
        places = np.arange(self.count)[rows]
        made = np.empty((len(places), *self.item_shape), self.dtype)
        unread = list(range(len(places))) if self.kept is None else self.kept.fill(places, made)

        def fill(share: Sequence[int]) -> None:
            for row in share:
                place = int(places[row])
                made[row] = self.read(place)
                if self.kept is not None:
                    self.kept.keep(place, made[row])

        cores = allowed_cores()
        if self.is_threaded and len(unread) >= FEW and cores > 1:
            # A share for each thread: handing over single items costs more than small ones take.
            list(_pool(os.getpid()).map(fill, [unread[n::cores] for n in range(cores)]))
        else:
            fill(unread)
        return made[(slice(None), *rest)] if rest else made

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            text = "items that are read when asked for cannot be an array without being read"
            raise ValueError(text)
        return np.asarray(self[:], dtype=dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.count, *self.item_shape)

    @property
    def ndim(self) -> int:
        return 1 + len(self.item_shape)

    @property
    def nbytes(self) -> int:
        return self.count * int(np.prod(self.item_shape)) * self.dtype.itemsize


def is_repeatable(x: Any) -> bool:
    """Return whether items, or rows of some, are the same each time they are read."""
    return all(getattr(getattr(one, "stored", one), "is_repeatable", True) for _, one in by_name(x))


def sample(x: Any, count: int = SAMPLED) -> NDArray[Any]:
    """Return some items, spread evenly, as an array."""
    places = np.unique(np.linspace(0, len(x) - 1, min(len(x), count)).astype(np.int64))
    return np.asarray(x[places])


def padded(targets: Sequence[Any], *, filler: float = -1) -> NDArray[Any]:
    """Return the targets of all items as one array; lists of different length are filled up.

    Raises:
        ValueError: they have no common shape behind the first axis.
    """
    arrays = [np.asarray(target) for target in targets]
    if len({a.shape for a in arrays}) == 1:
        return np.stack(arrays)
    widths = {a.shape[1:] for a in arrays if a.size}
    if len(widths) > 1 or any(a.ndim == 0 for a in arrays):
        text = f"targets have the shapes {sorted({str(a.shape) for a in arrays})[:4]}"
        raise ValueError(text)
    width = widths.pop() if widths else ()
    longest = max(len(a) for a in arrays)
    made = np.full((len(arrays), longest, *width), filler, np.result_type(*arrays))
    for row, one in enumerate(arrays):
        if one.size:
            made[row, : len(one)] = one
    return made


@cache
def _pool(process: int) -> ThreadPoolExecutor:
    """Return the threads of a process: those of its parent do not live in it."""
    del process
    return ThreadPoolExecutor(allowed_cores(), thread_name_prefix="items")
