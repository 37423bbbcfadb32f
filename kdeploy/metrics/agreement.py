"""Top-1 agreement: the fraction of items that get the same class as from the teacher."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdeploy.metrics.contract import check_classes, metric


@metric(name="agreement.top1", unit="fraction", better="higher")
def agreement(predicted: NDArray[np.integer[Any]], expected: NDArray[np.integer[Any]]) -> float:
    """Return the share of equal entries of the candidate's and the teacher's classes, (N,) each."""
    check_classes(predicted, expected)
    return float(np.mean(predicted == expected))
