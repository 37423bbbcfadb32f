"""Mean average precision of labels: how well each label's items are ranked first.

scikit-learn's `average_precision_score`: the area under the step-wise precision-recall curve.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdeploy.errors import DataError
from kdeploy.metrics.contract import check_sets, metric


@metric(name="multi_label.map", unit="fraction", better="higher", tasks=("multi_label",))
def multi_label_map(
    predicted: NDArray[np.floating[Any]], expected: NDArray[np.integer[Any]]
) -> float:
    """Return the mean over labels that have a positive item of their average precision.

    Args:
        predicted: Probabilities (N, labels).
        expected: 1 or 0; -1 where nobody knows, which counts nowhere.
    """
    from sklearn.metrics import average_precision_score

    check_sets(predicted, expected)
    values = []
    for own, true in zip(predicted.T, expected.T, strict=True):
        known = true >= 0
        if true[known].any():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of a label that every item has
                values.append(average_precision_score(true[known], own[known]))
    if not values:
        raise DataError(
            "no item has any of the labels, so there is nothing to rank",
            hint="test on items that have labels",
        )
    return float(np.mean(values))
