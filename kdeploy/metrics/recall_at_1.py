"""Recall at 1: items whose nearest other item belongs to the same group."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdeploy.errors import DataError
from kdeploy.metrics.contract import check_embeddings, metric, neighbours_in_group


@metric(name="embedding.recall_at_1", unit="fraction", better="higher", tasks=("embedding",))
def recall_at_1(predicted: NDArray[np.floating[Any]], expected: NDArray[np.integer[Any]]) -> float:
    """Return the share of items with the nearest other one, by cosine, in their group.

    Items that are alone in their group ask for nothing and are left out; equal similarities go by
    the order of items.

    Args:
        predicted: Unit vectors (N, width).
        expected: The group of each item, (N,).
    """
    check_embeddings(predicted)
    right = neighbours_in_group(predicted, expected)
    if not right.size:
        raise DataError(
            f"each of {len(expected)} groups has one item, so no other one can be found",
            hint="test on two or more items of a group",
        )
    return float(right.mean())
