"""Distance to the teacher: the mean absolute difference to another model's values."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdeploy.metrics.contract import check_vectors, metric


@metric(name="agreement.mae", unit="", better="lower", tasks=("regression",))
def agreement_mae(
    predicted: NDArray[np.floating[Any]], expected: NDArray[np.floating[Any]]
) -> float:
    """Return the mean of |predicted - expected|, both (N, D), in the target's own unit."""
    check_vectors(predicted, expected)
    return float(np.abs(predicted.astype(np.float64) - expected).mean())
