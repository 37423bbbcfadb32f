"""Macro F1: the mean over classes of the harmonic mean of precision and recall.

Every class counts alike, however rare; a class that neither side names is left out.
Sokolova and Lapalme, Information Processing & Management 45 (2009).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdeploy.metrics.contract import check_classes, metric


@metric(name="accuracy.f1_macro", unit="fraction", better="higher")
def f1_macro(predicted: NDArray[np.integer[Any]], expected: NDArray[np.integer[Any]]) -> float:
    """Return the mean over classes of 2 TP / (2 TP + FP + FN); both (N,) class indices."""
    check_classes(predicted, expected)
    num_classes = int(max(predicted.max(), expected.max())) + 1
    hits = np.bincount(expected[predicted == expected], minlength=num_classes)
    # predicted + expected = (TP + FP) + (TP + FN)
    total = np.bincount(predicted, minlength=num_classes)
    total = total + np.bincount(expected, minlength=num_classes)
    return float(np.mean(2 * hits[total > 0] / total[total > 0]))
