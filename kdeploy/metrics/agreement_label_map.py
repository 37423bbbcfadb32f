"""Agreement of labels: average precision with another model's labels as the truth."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdeploy.metrics.contract import check_sets, metric


@metric(name="agreement.map", unit="fraction", better="higher", tasks=("multi_label",))
def agreement_label_map(
    predicted: NDArray[np.floating[Any]], expected: NDArray[np.floating[Any]]
) -> float:
    """Return the mean average precision, where `expected` is at 0.5 or more the truth.

    Where the other model gives no item any label, it is the share of equal decisions.

    Args:
        predicted: Probabilities (N, labels).
        expected: Those of the other model.
    """
    from sklearn.metrics import average_precision_score

    check_sets(predicted, expected)
    truth = expected >= 0.5
    judged = truth.any(axis=0)
    if not judged.any():
        return float(((predicted >= 0.5) == truth).mean())
    values = [
        average_precision_score(t, p) for t, p in zip(truth.T, predicted.T, strict=True) if t.any()
    ]
    return float(np.mean(values))
