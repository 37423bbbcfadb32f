"""Coefficient of determination: the share of the variance of the true values that is explained.

1 is perfect, 0 is what the mean of the true values would get, and below 0 is worse than that.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdeploy.metrics.contract import check_vectors, metric


@metric(name="regression.r2", unit="", better="higher", tasks=("regression",))
def r2(predicted: NDArray[np.floating[Any]], expected: NDArray[np.floating[Any]]) -> float:
    """Return 1 - SSE / SST of each column, its mean over columns, both (N, D).

    SST is about the mean of `expected`. A column that never changes there explains nothing: it
    counts 1 where every value is met, else 0.
    """
    check_vectors(predicted, expected)
    exact = expected.astype(np.float64)
    errors = np.square(predicted - exact).sum(axis=0)
    total = np.square(exact - exact.mean(axis=0)).sum(axis=0)
    explained = 1 - errors / np.where(total > 0, total, 1)
    return float(np.where(total > 0, explained, errors == 0).mean())
