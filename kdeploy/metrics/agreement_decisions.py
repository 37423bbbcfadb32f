"""Agreement of decisions: the share of single labels that another model decides alike."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdeploy.metrics.contract import check_sets, metric


@metric(name="agreement.decisions", unit="fraction", better="higher", tasks=("multi_label",))
def agreement_decisions(
    predicted: NDArray[np.floating[Any]], expected: NDArray[np.floating[Any]]
) -> float:
    """Return the share of equal decisions at a probability of one half.

    Args:
        predicted: Probabilities (N, labels).
        expected: Those of the other model.
    """
    check_sets(predicted, expected)
    return float(((predicted >= 0.5) == (expected >= 0.5)).mean())
