"""Data larger than memory: some rows of a memory-mapped array, and any array in pieces."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

ITEMS_AT_ONCE = 4096  # of a mapped file, in memory


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """The rows `order` of `stored`, read from the file only when they are indexed.

    It stands in for an array wherever one indexes: `x[3]`, `x[a:b]`, `x[rows]`, `x[rows, 0]`.
    `np.asarray(x)` reads everything.
    """

    stored: NDArray[Any]
    order: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, key: Any) -> NDArray[Any]:
        rows, *rest = key if isinstance(key, tuple) else (key,)
        return np.asarray(self.stored[(self.order[rows], *rest)])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            text = "rows of a file cannot be an array without reading them"
            raise ValueError(text)
        return np.asarray(self[:], dtype=dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.order), *self.stored.shape[1:])

    @property
    def ndim(self) -> int:
        return self.stored.ndim

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.stored.dtype

    @property
    def nbytes(self) -> int:
        return len(self) * self.stored[:1].nbytes


@dataclass(frozen=True, slots=True, eq=False)
class Joined:
    """The rows of several arrays of one item's shape and type, one after the other, uncopied."""

    parts: tuple[NDArray[Any], ...]

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def __getitem__(self, key: Any) -> NDArray[Any]:
        rows, *rest = key if isinstance(key, tuple) else (key,)
        wanted = np.arange(len(self))[rows]
        out = np.empty((*np.shape(wanted), *self.shape[1:]), self.dtype)
        start = 0
        for part in self.parts:
            is_here = (wanted >= start) & (wanted < start + len(part))
            out[is_here] = part[wanted[is_here] - start]
            start += len(part)
        return out[(slice(None),) * np.ndim(wanted) + tuple(rest)]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            text = "joined arrays cannot be one without being copied"
            raise ValueError(text)
        return np.asarray(self[:], dtype=dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self), *self.parts[0].shape[1:])

    @property
    def ndim(self) -> int:
        return self.parts[0].ndim

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.parts[0].dtype

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.parts)


def pieces(x: NDArray[Any]) -> Iterator[tuple[int, NDArray[Any]]]:
    """Yield `x` in pieces that fit into memory, each with the row where it starts."""
    for start in range(0, len(x), ITEMS_AT_ONCE):
        yield start, x[start : start + ITEMS_AT_ONCE]
