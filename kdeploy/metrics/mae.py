"""Mean absolute error: how far values are from the true ones, in their own unit."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdeploy.metrics.contract import check_vectors, metric


@metric(name="regression.mae", unit="", better="lower", tasks=("regression",))
def mae(predicted: NDArray[np.floating[Any]], expected: NDArray[np.floating[Any]]) -> float:
    """Return the mean of |predicted - expected| over all numbers, both (N, D)."""
    check_vectors(predicted, expected)
    return float(np.abs(predicted.astype(np.float64) - expected).mean())
