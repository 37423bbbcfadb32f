"""Top-1 accuracy: the fraction of items whose predicted class is the true one."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdeploy.metrics.contract import check_classes, metric


@metric(name="accuracy.top1", unit="fraction", better="higher")
def top1(predicted: NDArray[np.integer[Any]], expected: NDArray[np.integer[Any]]) -> float:
    """Return the share of equal entries; both (N,) class indices."""
    check_classes(predicted, expected)
    return float(np.mean(predicted == expected))
