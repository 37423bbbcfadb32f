"""F1 of labels at a probability of one half: every single decision counts alike."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdeploy.metrics.contract import check_sets, metric, set_counts


@metric(name="multi_label.f1_micro", unit="fraction", better="higher", tasks=("multi_label",))
def multi_label_f1_micro(
    predicted: NDArray[np.floating[Any]], expected: NDArray[np.integer[Any]]
) -> float:
    """Return 2 TP / (2 TP + FP + FN) over all labels together, at probabilities of 0.5 and more.

    Args:
        predicted: Probabilities (N, labels).
        expected: 1 or 0; -1 where nobody knows, which counts nowhere.
    """
    check_sets(predicted, expected)
    hits, total = set_counts(predicted, expected)
    return float(2 * hits.sum() / total.sum()) if total.sum() else 1.0
