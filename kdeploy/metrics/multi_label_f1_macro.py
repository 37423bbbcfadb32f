"""F1 of labels at a probability of one half: every label counts alike."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdeploy.metrics.contract import check_sets, metric, set_counts


@metric(name="multi_label.f1_macro", unit="fraction", better="higher", tasks=("multi_label",))
def multi_label_f1_macro(
    predicted: NDArray[np.floating[Any]], expected: NDArray[np.integer[Any]]
) -> float:
    """Return 2 TP / (2 TP + FP + FN), the mean over labels, at probabilities of 0.5 and more.

    Args:
        predicted: Probabilities (N, labels).
        expected: 1 or 0; -1 where nobody knows, which counts nowhere.
    """
    check_sets(predicted, expected)
    hits, total = set_counts(predicted, expected)
    # A label that neither side gives to any item is met, as scikit-learn's zero_division=1 has it.
    return float(np.where(total > 0, 2 * hits / np.maximum(total, 1), 1.0).mean())
