"""Hold out a part of labelled items, the same share of every class."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def stratified(
    labels: NDArray[np.int64], *, fraction: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows that stay and the rows held out, both in ascending order.

    Items whose labels are of their tokens, (N, tokens), all count as one class.

    Of every class with two or more items, at least one is held out and at least one stays. Equal
    seeds give equal rows under every version of numpy.

    Args:
        labels: Class of each item, (N,), or of each token.
        fraction: Share of each class to hold out, in (0, 1).
        seed: Draws the rows.
    """
    classes = labels if labels.ndim == 1 else np.zeros(len(labels), np.int64)
    # PCG64's raw stream is guaranteed stable between numpy versions, Generator's methods are not.
    keys = np.atleast_1d(np.random.PCG64(seed).random_raw(len(labels)))
    is_held_out = np.zeros(len(labels), dtype=bool)
    for label in np.unique(classes):
        rows = np.flatnonzero(classes == label)
        count = min(max(round(fraction * len(rows)), 1), len(rows) - 1)
        is_held_out[rows[np.argsort(keys[rows], kind="stable")[:count]]] = True
    return np.flatnonzero(~is_held_out), np.flatnonzero(is_held_out)
