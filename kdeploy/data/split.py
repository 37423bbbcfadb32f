"""Hold out a part of labelled items, the same share of every class."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def stratified(
    labels: NDArray[np.int64], *, fraction: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows that stay and the rows held out, both in ascending order.

    Of every class with two or more items, at least one is held out and at least one stays. Equal
    seeds give equal rows under every version of numpy.

    Args:
        labels: Class of each item, (N,).
        fraction: Share of each class to hold out, in (0, 1).
        seed: Draws the rows.
    """
    # PCG64's raw stream is guaranteed stable between numpy versions, Generator's methods are not.
    keys = np.atleast_1d(np.random.PCG64(seed).random_raw(len(labels)))
    is_held_out = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        count = min(max(round(fraction * len(rows)), 1), len(rows) - 1)
        is_held_out[rows[np.argsort(keys[rows], kind="stable")[:count]]] = True
    return np.flatnonzero(~is_held_out), np.flatnonzero(is_held_out)
