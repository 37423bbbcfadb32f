"""Root mean squared error: like the mean absolute error, with large errors weighing more."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdeploy.metrics.contract import check_vectors, metric


@metric(name="regression.rmse", unit="", better="lower", tasks=("regression",))
def rmse(predicted: NDArray[np.floating[Any]], expected: NDArray[np.floating[Any]]) -> float:
    """Return the root of the mean of (predicted - expected)**2 over all numbers, both (N, D)."""
    check_vectors(predicted, expected)
    return float(np.sqrt(np.square(predicted.astype(np.float64) - expected).mean()))
